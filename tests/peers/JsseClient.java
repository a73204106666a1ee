// A DTLS client of JSSE, which is in every JDK: java JsseClient.java HOST PORT x509 CERTIFICATE.
// Sends each line of stdin once the handshake is done, writes what comes back to stdout, and says
// goodbye at the end of stdin. JSSE has no cipher suite with PSK.

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.List;
import javax.net.ssl.SNIHostName;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.SSLEngineResult;
import javax.net.ssl.SSLEngineResult.HandshakeStatus;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;

public class JsseClient {
    static final int DATAGRAM = 65536; // bytes
    static final int WAIT_MS = 500; // for a datagram, before a flight is sent again
    static final int TRIES = 60;

    static DatagramSocket socket;
    static SSLEngine engine;

    public static void main(String[] words) throws Exception {
        engine = context(words[3]).createSSLEngine("localhost", Integer.parseInt(words[1]));
        engine.setUseClientMode(true);
        SSLParameters parameters = engine.getSSLParameters();
        parameters.setServerNames(List.of(new SNIHostName("localhost")));
        parameters.setEndpointIdentificationAlgorithm("HTTPS");
        parameters.setMaximumPacketSize(1400);
        engine.setSSLParameters(parameters);
        socket = new DatagramSocket();
        socket.connect(InetAddress.getByName(words[0]), Integer.parseInt(words[1]));
        socket.setSoTimeout(WAIT_MS);
        shake();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            send(ByteBuffer.wrap((line + "\n").getBytes()));
            System.out.write(answer(lines));
            System.out.flush();
        }
        engine.closeOutbound();
        send(ByteBuffer.allocate(0));
    }

    static SSLContext context(String certificate) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (FileInputStream file = new FileInputStream(certificate)) {
            CertificateFactory factory = CertificateFactory.getInstance("X.509");
            trusted.setCertificateEntry("server", factory.generateCertificate(file));
        }
        TrustManagerFactory managers =
                TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(trusted);
        SSLContext context = SSLContext.getInstance("DTLS");
        context.init(null, managers.getTrustManagers(), null);
        return context;
    }

    static void shake() throws Exception {
        ByteBuffer in = ByteBuffer.allocate(0);
        engine.beginHandshake();
        for (int tries = 0; tries < TRIES; ) {
            switch (engine.getHandshakeStatus()) {
                case NEED_WRAP:
                    send(ByteBuffer.allocate(0));
                    break;
                case NEED_TASK:
                    engine.getDelegatedTask().run();
                    break;
                case NEED_UNWRAP:
                    if (!in.hasRemaining()) {
                        in = received();
                        if (in == null) {
                            in = ByteBuffer.allocate(0);
                            tries++;
                            send(ByteBuffer.allocate(0)); // the last flight again
                            break;
                        }
                    }
                    unwrap(in);
                    break;
                case NEED_UNWRAP_AGAIN:
                    unwrap(ByteBuffer.allocate(0));
                    break;
                default:
                    return;
            }
        }
        throw new SSLException("no handshake");
    }

    /** What comes back; nothing where there is another line before. */
    static byte[] answer(BufferedReader lines) throws Exception {
        byte[] text = {};
        for (int tries = 0; tries < TRIES && text.length == 0; tries++) {
            ByteBuffer in = received();
            if (in != null) {
                text = unwrap(in);
            } else if (lines.ready()) {
                break;
            }
        }
        return text;
    }

    static void send(ByteBuffer text) throws Exception {
        ByteBuffer out = ByteBuffer.allocate(DATAGRAM);
        engine.wrap(text, out);
        out.flip();
        if (out.hasRemaining()) {
            socket.send(new DatagramPacket(out.array(), out.limit()));
        }
    }

    /** One datagram; null: none came. */
    static ByteBuffer received() throws Exception {
        DatagramPacket packet = new DatagramPacket(new byte[DATAGRAM], DATAGRAM);
        try {
            socket.receive(packet);
        } catch (SocketTimeoutException error) {
            return null;
        }
        return ByteBuffer.wrap(packet.getData(), 0, packet.getLength());
    }

    /** What the next record says. */
    static byte[] unwrap(ByteBuffer in) throws Exception {
        ByteBuffer text = ByteBuffer.allocate(DATAGRAM);
        SSLEngineResult result = engine.unwrap(in, text);
        if (result.getStatus() == SSLEngineResult.Status.CLOSED) {
            throw new SSLException("closed by the server");
        }
        if (result.getHandshakeStatus() == HandshakeStatus.NEED_TASK) {
            engine.getDelegatedTask().run();
        }
        text.flip();
        byte[] bytes = new byte[text.remaining()];
        text.get(bytes);
        return bytes;
    }
}
