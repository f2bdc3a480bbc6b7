// The client by Java's own java.net.http: URL CA. It offers no extension.
import java.io.ByteArrayOutputStream;
import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.net.http.WebSocketHandshakeException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.cert.CertificateFactory;
import java.util.HexFormat;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class Client {
  public static void main(String[] arguments) throws Exception {
    String url = arguments[0];
    HttpClient http = HttpClient.newBuilder().sslContext(trusting(arguments[1])).build();
    StringBuilder seen = new StringBuilder();

    Heard heard = new Heard();
    WebSocket socket = open(http, url + "/chat?by=client", heard);
    add(seen, "subprotocol", socket.getSubprotocol());
    byte[] big = new byte[1 << 20];
    for (int at = 0; at < big.length; at++) big[at] = (byte) at;
    socket.sendBinary(ByteBuffer.wrap(big), true).join();
    add(seen, "big", hash((byte[]) heard.next.take()));
    ByteArrayOutputStream small = new ByteArrayOutputStream();
    for (int number = 0; number < 1000; number++) {
      socket.sendText("message " + number, true).join();
      small.writeBytes(((String) heard.next.take()).getBytes(StandardCharsets.UTF_8));
    }
    add(seen, "small", hash(small.toByteArray()));
    socket.sendPing(ByteBuffer.wrap("mine".getBytes(StandardCharsets.UTF_8))).join();
    add(seen, "pong", heard.next.take());
    socket.sendText("ping me", true).join();
    add(seen, "pinged", heard.next.take());
    socket.sendClose(4002, "enough").join();
    add(seen, "closed", heard.next.take());

    heard = new Heard();
    socket = open(http, url + "/chat?by=server", heard);
    socket.sendText("close 4001 bye", true).join();
    add(seen, "told", heard.next.take());
    try {
      open(http, url + "/refuse", new Heard());
    } catch (CompletionException failed) {
      add(seen, "refused", ((WebSocketHandshakeException) failed.getCause()).getResponse().statusCode());
    }
    System.out.println("{" + seen.substring(1) + "}");
  }

  static WebSocket open(HttpClient http, String url, Heard heard) {
    return http.newWebSocketBuilder().subprotocols("other", "echo.v1").buildAsync(URI.create(url), heard).join();
  }

  /** What came, whole: text as String, binary as byte[], a pong and a close in words. */
  static class Heard implements WebSocket.Listener {
    final BlockingQueue<Object> next = new LinkedBlockingQueue<>();
    private final StringBuilder text = new StringBuilder();
    private final ByteArrayOutputStream binary = new ByteArrayOutputStream();

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
      text.append(part);
      if (last) {
        next.add(text.toString());
        text.setLength(0);
      }
      socket.request(1);
      return null;
    }

    @Override
    public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer part, boolean last) {
      byte[] bytes = new byte[part.remaining()];
      part.get(bytes);
      binary.writeBytes(bytes);
      if (last) {
        next.add(binary.toByteArray());
        binary.reset();
      }
      socket.request(1);
      return null;
    }

    @Override
    public CompletionStage<?> onPong(WebSocket socket, ByteBuffer payload) {
      next.add("pong " + StandardCharsets.UTF_8.decode(payload));
      socket.request(1);
      return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
      next.add(code + " " + reason);
      return null;
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
      next.add("error " + error);
    }
  }

  static SSLContext trusting(String authority) throws Exception {
    KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
    store.load(null, null);
    try (FileInputStream file = new FileInputStream(authority)) {
      store.setCertificateEntry("ca", CertificateFactory.getInstance("X.509").generateCertificate(file));
    }
    TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    managers.init(store);
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(null, managers.getTrustManagers(), null);
    return context;
  }

  static String hash(byte[] bytes) throws Exception {
    return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
  }

  static void add(StringBuilder seen, String name, Object value) {
    seen.append(String.format(",\"%s\":\"%s\"", name, value));
  }
}
