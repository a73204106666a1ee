// The two cookie functions in Java, as a target of the differential bench:
//     gnutls-cookie diff --exec "java examples/Cookie.java"
// With --wrong one fault is planted: a datagram may end with its cookie. The reader of JSON knows
// what the bench writes, and nothing else.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

public class Cookie {
    static final int UNEXPECTED_PACKET_LENGTH = -9;
    static final int INVALID_REQUEST = -50;
    static final int PUSH_ERROR = -53;
    static final int BAD_COOKIE = -214;

    static byte[] cookie(byte[] key, byte[] clientData) throws GeneralSecurityException {
        Mac mac = Mac.getInstance("HmacSHA1");
        mac.init(new SecretKeySpec(key, "HmacSHA1"));
        return Arrays.copyOf(mac.doFinal(clientData), 16);
    }

    // 0, or a negative code.
    static int verify(byte[] key, byte[] clientData, byte[] message, boolean wrong)
            throws GeneralSecurityException {
        if (key.length == 0) return INVALID_REQUEST;
        if (message.length < 60) return UNEXPECTED_PACKET_LENGTH;
        int sessionId = message[59] & 0xff;
        int start = 61 + sessionId;
        if (sessionId > 32 || message.length < start) return UNEXPECTED_PACKET_LENGTH;
        int end = start + (message[start - 1] & 0xff);
        if (message.length < end + (wrong ? 0 : 1)) return UNEXPECTED_PACKET_LENGTH;
        if (end - start != 16) return BAD_COOKIE;
        byte[] presented = Arrays.copyOfRange(message, start, end);
        return MessageDigest.isEqual(presented, cookie(key, clientData)) ? 0 : BAD_COOKIE;
    }

    // The 44 bytes that push is given.
    static byte[] request(byte[] key, byte[] clientData, long recordSeq, long hskWriteSeq)
            throws GeneralSecurityException {
        byte[] head = HexFormat.of().parseHex(
            "16feff0000000000000000001f" + "030000130000000000000013" + "feff10");
        byte[] datagram = Arrays.copyOf(head, 44);
        datagram[10] = (byte) recordSeq;
        datagram[18] = (byte) hskWriteSeq;
        System.arraycopy(cookie(key, clientData), 0, datagram, 28, 16);
        return datagram;
    }

    // What stands behind a name, without quotes; "" where it is null or not there.
    static String member(String line, String name) {
        Matcher found = Pattern.compile("\"" + name + "\": *(\"([^\"]*)\"|\\[[^]]*]|-?\\d+)").matcher(line);
        if (!found.find()) return "";
        return found.group(2) != null ? found.group(2) : found.group(1);
    }

    static byte[] bytes(String line, String name) {
        return HexFormat.of().parseHex(member(line, name));
    }

    static String answer(String line, boolean wrong) throws GeneralSecurityException {
        String operation = member(line, "operation");
        if (operation.equals("hello")) return "{\"operations\": [\"verify\", \"send\"]}";
        byte[] key = bytes(line, "key");
        byte[] clientData = bytes(line, "client_data");
        String before = member(line, "prestate");
        if (operation.equals("verify")) {
            byte[] message = bytes(line, "message");
            int result = verify(key, clientData, message, wrong);
            String after = result < 0 ? before
                : "[" + (message[10] & 0xff) + ", " + (message[18] & 0xff) + ", 0]";
            return "{\"result\": " + result + ", \"prestate\": " + after + "}";
        }
        if (key.length == 0) return "{\"result\": " + INVALID_REQUEST + ", \"prestate\": " + before + "}";
        List<Long> numbers = Arrays.stream(before.replaceAll("[\\[\\] ]", "").split(","))
            .map(Long::valueOf).toList();
        byte[] datagram = request(key, clientData, numbers.get(0), numbers.get(2));
        String pushed = member(line, "pushed");
        int narrowed = pushed.isEmpty() ? datagram.length : (int) Long.parseLong(pushed);
        return "{\"result\": " + (narrowed < 0 ? PUSH_ERROR : narrowed) + ", \"pushed\": \""
            + HexFormat.of().formatHex(datagram) + "\", \"prestate\": " + before + "}";
    }

    public static void main(String[] arguments) throws Exception {
        boolean wrong = Arrays.asList(arguments).contains("--wrong");
        BufferedReader questions = new BufferedReader(new InputStreamReader(System.in));
        for (String line = questions.readLine(); line != null; line = questions.readLine()) {
            System.out.println(answer(line, wrong));
            System.out.flush();
        }
    }
}
