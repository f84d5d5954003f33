import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptors;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** Makes gRPC calls with grpc-netty as its standard input says; see ../driver.py for the lines. */
public class Client {
  private static final HexFormat HEX = HexFormat.of();
  private static ManagedChannel channel;

  /** What became of a call. */
  private record Answer(Status status, List<byte[]> messages) {
    String line() {
      String texts = messages.stream().map(Client::hex).collect(Collectors.joining(","));
      String details = status.getDescription() == null ? "" : status.getDescription();
      return status.getCode().value() + " " + texts + " " + hex(details.getBytes(StandardCharsets.UTF_8));
    }
  }

  public static void main(String[] arguments) throws Exception {
    NettyChannelBuilder builder = NettyChannelBuilder.forTarget(arguments[0]).usePlaintext();
    String keepalive = System.getenv("KEEPALIVE_MS");
    if (keepalive != null) {
      builder.keepAliveTime(Long.parseLong(keepalive), TimeUnit.MILLISECONDS);
      builder.keepAliveTimeout(2, TimeUnit.SECONDS).keepAliveWithoutCalls(true);
    }
    channel = builder.build();
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      String[] words = line.split(" ");
      System.out.println(
          switch (words[0]) {
            case "unary", "stream" -> call(words).line();
            case "cancel" -> cancel(words[1], unhex(words[2])).line();
            case "many" -> many(words[1], Integer.parseInt(words[2]), words[3].split(","));
            default -> throw new IllegalArgumentException(line);
          });
      System.out.flush();
    }
    channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
  }

  private static Answer call(String[] words) throws InterruptedException {
    CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(Long.parseLong(words[2]), TimeUnit.MILLISECONDS);
    if (words[3].equals("1")) {
      options = options.withCompression("gzip");
    }
    Channel used = channel;
    int size = Integer.parseInt(words[4]);
    if (size > 0) {
      Metadata metadata = new Metadata();
      metadata.put(Metadata.Key.of("x-large", Metadata.ASCII_STRING_MARSHALLER), "m".repeat(size));
      metadata.put(Metadata.Key.of("x-large-bin", Metadata.BINARY_BYTE_MARSHALLER), new byte[] {0, (byte) 255});
      used = ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(metadata));
    }
    boolean one = words[0].equals("unary");
    MethodDescriptor.MethodType type = one ? MethodDescriptor.MethodType.UNARY : MethodDescriptor.MethodType.BIDI_STREAMING;
    Collector answers = new Collector();
    ClientCall<byte[], byte[]> call = used.newCall(method(words[1], type), options);
    if (one) {
      ClientCalls.asyncUnaryCall(call, unhex(words[5]), answers);
    } else {
      StreamObserver<byte[]> requests = ClientCalls.asyncBidiStreamingCall(call, answers);
      for (String message : words[5].split(",")) {
        requests.onNext(unhex(message));
      }
      requests.onCompleted();
    }
    return answers.await();
  }

  private static Answer cancel(String path, byte[] message) throws InterruptedException {
    ClientCall<byte[], byte[]> call =
        channel.newCall(method(path, MethodDescriptor.MethodType.BIDI_STREAMING), CallOptions.DEFAULT);
    Collector answers = new Collector();
    answers.then = () -> call.cancel("enough", null);
    ClientCalls.asyncBidiStreamingCall(call, answers).onNext(message);
    return answers.await();
  }

  /** Unary calls, so many at a time; the codes. */
  private static String many(String path, int inFlight, String[] messages) throws Exception {
    ExecutorService workers = Executors.newFixedThreadPool(inFlight);
    List<Future<String>> codes = new ArrayList<>();
    for (String message : messages) {
      String[] words = {"unary", path, "20000", "0", "0", message};
      codes.add(workers.submit(() -> String.valueOf(call(words).status.getCode().value())));
    }
    List<String> found = new ArrayList<>();
    for (Future<String> code : codes) {
      found.add(code.get());
    }
    workers.shutdown();
    return String.join(",", found);
  }

  private static MethodDescriptor<byte[], byte[]> method(String path, MethodDescriptor.MethodType type) {
    return MethodDescriptor.<byte[], byte[]>newBuilder(new Raw(), new Raw())
        .setType(type)
        .setFullMethodName(path.substring(1))
        .build();
  }

  private static String hex(byte[] data) {
    return "-" + HEX.formatHex(data);
  }

  private static byte[] unhex(String text) {
    return HEX.parseHex(text.substring(1));
  }

  /** Keeps the answers of a call until it is over. */
  private static class Collector implements StreamObserver<byte[]> {
    private final List<byte[]> messages = new ArrayList<>();
    private final CountDownLatch over = new CountDownLatch(1);
    private Status status = Status.OK;
    private Runnable then = () -> {};

    @Override
    public void onNext(byte[] message) {
      messages.add(message);
      then.run();
    }

    @Override
    public void onError(Throwable error) {
      status = Status.fromThrowable(error);
      over.countDown();
    }

    @Override
    public void onCompleted() {
      over.countDown();
    }

    Answer await() throws InterruptedException {
      over.await();
      return new Answer(status, messages);
    }
  }
}
