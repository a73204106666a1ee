// A DTLS client or server of BouncyCastle:
// java -cp JARS BouncyCastlePeer.java client HOST PORT x509 TRUST | psk IDENTITY HEX
// java -cp JARS BouncyCastlePeer.java server HOST PORT x509 CERTIFICATE KEY | psk IDENTITY HEX
// (Without arguments it tells its version.)
// The client sends each line of stdin once the handshake is done, writes what comes back to stdout,
// and says goodbye at the end of stdin. The server challenges, echoes, and serves one client after
// another.

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.DatagramPacket;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.SecureRandom;
import java.util.Arrays;
import java.util.Base64;
import java.util.Vector;
import org.bouncycastle.crypto.params.AsymmetricKeyParameter;
import org.bouncycastle.crypto.util.PrivateKeyFactory;
import org.bouncycastle.tls.AlertDescription;
import org.bouncycastle.tls.BasicTlsPSKIdentity;
import org.bouncycastle.tls.Certificate;
import org.bouncycastle.tls.CertificateRequest;
import org.bouncycastle.tls.CipherSuite;
import org.bouncycastle.tls.DTLSClientProtocol;
import org.bouncycastle.tls.DTLSRequest;
import org.bouncycastle.tls.DTLSServerProtocol;
import org.bouncycastle.tls.DTLSTransport;
import org.bouncycastle.tls.DTLSVerifier;
import org.bouncycastle.tls.DatagramSender;
import org.bouncycastle.tls.DefaultTlsClient;
import org.bouncycastle.tls.DefaultTlsServer;
import org.bouncycastle.tls.HashAlgorithm;
import org.bouncycastle.tls.NameType;
import org.bouncycastle.tls.PSKTlsClient;
import org.bouncycastle.tls.PSKTlsServer;
import org.bouncycastle.tls.ProtocolVersion;
import org.bouncycastle.tls.ServerName;
import org.bouncycastle.tls.SignatureAlgorithm;
import org.bouncycastle.tls.SignatureAndHashAlgorithm;
import org.bouncycastle.tls.TlsAuthentication;
import org.bouncycastle.tls.TlsClient;
import org.bouncycastle.tls.TlsCredentialedSigner;
import org.bouncycastle.tls.TlsCredentials;
import org.bouncycastle.tls.TlsFatalAlert;
import org.bouncycastle.tls.TlsPSKIdentityManager;
import org.bouncycastle.tls.TlsServer;
import org.bouncycastle.tls.TlsServerCertificate;
import org.bouncycastle.tls.UDPTransport;
import org.bouncycastle.tls.crypto.TlsCertificate;
import org.bouncycastle.tls.crypto.TlsCryptoParameters;
import org.bouncycastle.tls.crypto.impl.bc.BcDefaultTlsCredentialedSigner;
import org.bouncycastle.tls.crypto.impl.bc.BcTlsCrypto;

public class BouncyCastlePeer {
    static final int MTU = 1400; // bytes
    static final int WAIT_MS = 500; // for an answer, before the next line is looked for
    static final int TRIES = 60;
    static final BcTlsCrypto CRYPTO = new BcTlsCrypto(new SecureRandom());
    static final ProtocolVersion[] VERSIONS = {ProtocolVersion.DTLSv12};

    public static void main(String[] words) throws Exception {
        if (words.length == 0) {
            Package tls = TlsClient.class.getPackage();
            System.out.println("BouncyCastle " + tls.getImplementationVersion());
            return;
        }
        InetAddress host = InetAddress.getByName(words[1]);
        int port = Integer.parseInt(words[2]);
        boolean psk = words[3].equals("psk");
        if (words[0].equals("client")) {
            DatagramSocket socket = new DatagramSocket();
            socket.connect(host, port);
            TlsClient client = psk ? sharing(words[4], words[5]) : trusting(read(words[4]));
            talk(new DTLSClientProtocol().connect(client, new UDPTransport(socket, MTU)));
        } else {
            for (boolean first = true; true; first = false) {
                DatagramSocket socket = new DatagramSocket(new InetSocketAddress(host, port));
                if (first) {
                    System.out.println("serving");
                }
                TlsServer server =
                        psk ? knowing(words[4], words[5]) : showing(read(words[4]), read(words[5]));
                try {
                    serve(server, socket);
                } catch (IOException error) {
                    System.out.println("ended: " + error);
                }
                socket.close();
            }
        }
    }

    static void talk(DTLSTransport transport) throws IOException {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        byte[] answer = new byte[transport.getReceiveLimit()];
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            byte[] message = (line + "\n").getBytes();
            transport.send(message, 0, message.length);
            int size = -1;
            for (int tries = 0; tries < TRIES && size < 0; tries++) {
                size = transport.receive(answer, 0, answer.length, WAIT_MS);
                if (size < 0 && lines.ready()) {
                    break;
                }
            }
            System.out.write(answer, 0, Math.max(size, 0));
            System.out.flush();
        }
        transport.close();
    }

    /** One client, from its hello to its goodbye. */
    static void serve(TlsServer server, DatagramSocket socket) throws IOException {
        DTLSVerifier verifier = new DTLSVerifier(CRYPTO);
        DTLSRequest request = null;
        DatagramPacket packet = new DatagramPacket(new byte[65536], 65536);
        socket.setSoTimeout(0);
        while (request == null) {
            packet.setLength(65536);
            socket.receive(packet);
            byte[] address = packet.getSocketAddress().toString().getBytes();
            request =
                    verifier.verifyRequest(
                            address,
                            packet.getData(),
                            0,
                            packet.getLength(),
                            new DatagramSender() {
                                public int getSendLimit() {
                                    return MTU;
                                }

                                public void send(byte[] data, int at, int size) throws IOException {
                                    socket.send(
                                            new DatagramPacket(
                                                    data, at, size, packet.getSocketAddress()));
                                }
                            });
        }
        socket.connect(packet.getSocketAddress());
        DTLSTransport transport =
                new DTLSServerProtocol().accept(server, new UDPTransport(socket, MTU), request);
        byte[] message = new byte[transport.getReceiveLimit()];
        while (true) { // until its goodbye, which closes the socket
            int size = transport.receive(message, 0, message.length, WAIT_MS);
            if (size >= 0) {
                transport.send(message, 0, size);
            }
        }
    }

    static TlsClient sharing(String identity, String key) {
        return new PSKTlsClient(CRYPTO, new BasicTlsPSKIdentity(identity, bytes(key))) {
            protected ProtocolVersion[] getSupportedVersions() {
                return VERSIONS;
            }
        };
    }

    static TlsClient trusting(byte[] trusted) {
        return new DefaultTlsClient(CRYPTO) {
            protected ProtocolVersion[] getSupportedVersions() {
                return VERSIONS;
            }

            protected Vector getSNIServerNames() {
                Vector<ServerName> names = new Vector<>();
                names.add(new ServerName(NameType.host_name, "localhost".getBytes()));
                return names;
            }

            public TlsAuthentication getAuthentication() {
                return new TlsAuthentication() {
                    // BouncyCastle leaves the judgement to the application: the very same one.
                    public void notifyServerCertificate(TlsServerCertificate shown)
                            throws IOException {
                        byte[] first = shown.getCertificate().getCertificateAt(0).getEncoded();
                        if (!Arrays.equals(first, trusted)) {
                            throw new TlsFatalAlert(AlertDescription.bad_certificate);
                        }
                    }

                    public TlsCredentials getClientCredentials(CertificateRequest request) {
                        return null;
                    }
                };
            }
        };
    }

    static TlsServer knowing(String identity, String key) {
        TlsPSKIdentityManager keys =
                new TlsPSKIdentityManager() {
                    public byte[] getHint() {
                        return null;
                    }

                    public byte[] getPSK(byte[] who) {
                        return new String(who).equals(identity) ? bytes(key) : null;
                    }
                };
        return new PSKTlsServer(CRYPTO, keys) {
            protected ProtocolVersion[] getSupportedVersions() {
                return VERSIONS;
            }
        };
    }

    static TlsServer showing(byte[] certificate, byte[] key) throws IOException {
        AsymmetricKeyParameter secret = PrivateKeyFactory.createKey(key);
        Certificate chain =
                new Certificate(new TlsCertificate[] {CRYPTO.createCertificate(certificate)});
        return new DefaultTlsServer(CRYPTO) {
            protected ProtocolVersion[] getSupportedVersions() {
                return VERSIONS;
            }

            protected int[] getSupportedCipherSuites() {
                return new int[] { // those of the certificate's key
                    CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                    CipherSuite.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                };
            }

            protected TlsCredentialedSigner getECDSASignerCredentials() {
                return new BcDefaultTlsCredentialedSigner(
                        new TlsCryptoParameters(context),
                        CRYPTO,
                        secret,
                        chain,
                        SignatureAndHashAlgorithm.getInstance(
                                HashAlgorithm.sha256, SignatureAlgorithm.ecdsa));
            }
        };
    }

    static byte[] bytes(String hex) {
        byte[] found = new byte[hex.length() / 2];
        for (int at = 0; at < found.length; at++) {
            found[at] = (byte) Integer.parseInt(hex.substring(2 * at, 2 * at + 2), 16);
        }
        return found;
    }

    /** What a file of PEM holds. */
    static byte[] read(String path) throws IOException {
        return Base64.getMimeDecoder()
                .decode(Files.readString(Path.of(path)).replaceAll("-----[A-Z ]+-----", ""));
    }
}
