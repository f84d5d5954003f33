import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerServiceDefinition;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayOutputStream;
import java.net.InetSocketAddress;
import java.util.ArrayList;
import java.util.List;
import sun.misc.Signal;

/**
 * A gateway that takes everything, with grpc-netty as its server; see ../test_sinks.py.
 *
 * <p>Argument: the address. It prints "ready ADDRESS", then the id of each event as it comes. SIGTERM asks the clients
 * to leave (GOAWAY) and ends it when they have.
 */
public class Sink {
  public static void main(String[] arguments) throws Exception {
    String[] words = arguments[0].split(":");
    MethodDescriptor<byte[], byte[]> method =
        MethodDescriptor.<byte[], byte[]>newBuilder(new Raw(), new Raw())
            .setType(MethodDescriptor.MethodType.BIDI_STREAMING)
            .setFullMethodName("polku.v1.Gateway/StreamEvents")
            .build();
    Server server =
        NettyServerBuilder.forAddress(new InetSocketAddress(words[0], Integer.parseInt(words[1])))
            .addService(
                ServerServiceDefinition.builder("polku.v1.Gateway")
                    .addMethod(method, ServerCalls.asyncBidiStreamingCall(Stream::new))
                    .build())
            .build()
            .start();
    Signal.handle(new Signal("TERM"), signal -> server.shutdown());
    say("ready " + words[0] + ":" + server.getPort());
    server.awaitTermination();
    System.exit(0);
  }

  private static synchronized void say(String text) {
    System.out.println(text);
    System.out.flush();
  }

  /** One call of StreamEvents. */
  private static class Stream implements StreamObserver<byte[]> {
    private final StreamObserver<byte[]> answers;

    Stream(StreamObserver<byte[]> answers) {
      this.answers = answers;
    }

    @Override
    public void onNext(byte[] message) {
      ByteArrayOutputStream ack = new ByteArrayOutputStream();
      List<String> ids = new ArrayList<>();
      for (byte[] payload : fields(message, 4)) {
        for (byte[] event : fields(payload, 1)) {
          for (byte[] id : fields(event, 1)) {
            ack.write(10);
            ack.write(id.length); // they are shorter than 128 bytes
            ack.writeBytes(id);
            ids.add(new String(id));
          }
        }
      }
      if (!ids.isEmpty()) {
        say(String.join("\n", ids));
      }
      answers.onNext(ack.toByteArray());
    }

    @Override
    public void onError(Throwable error) {}

    @Override
    public void onCompleted() {
      answers.onCompleted();
    }
  }

  /** Returns the contents of one field of bytes of a message. */
  private static List<byte[]> fields(byte[] message, int number) {
    List<byte[]> found = new ArrayList<>();
    int[] at = {0};
    while (at[0] < message.length) {
      long tag = varint(message, at);
      switch ((int) (tag & 7)) {
        case 0 -> varint(message, at);
        case 1 -> at[0] += 8;
        case 5 -> at[0] += 4;
        default -> {
          int size = (int) varint(message, at);
          if (tag >> 3 == number) {
            found.add(java.util.Arrays.copyOfRange(message, at[0], at[0] + size));
          }
          at[0] += size;
        }
      }
    }
    return found;
  }

  private static long varint(byte[] message, int[] at) {
    long value = 0;
    for (int shift = 0; ; shift += 7) {
      byte next = message[at[0]++];
      value |= (long) (next & 127) << shift;
      if (next >= 0) {
        return value;
      }
    }
  }
}
