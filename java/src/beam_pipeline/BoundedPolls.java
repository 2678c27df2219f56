package beam_pipeline;

import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Map;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.apache.beam.sdk.transforms.SerializableFunction;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.Deserializer;

/**
 * Makes consumers whose polls return records of a limited size in all, as they are in memory, and
 * which end a reader's turn soon after its last record.
 *
 * <p>{@code max.poll.records} limits their number, and the fetch limits count compressed bytes: 60
 * values of 8 MB that compress well are one fetch and one poll. In: a consumer's properties. Out:
 * a KafkaConsumer; a poll of it returns one record at least.
 */
final class BoundedPolls
    implements SerializableFunction<Map<String, Object>, Consumer<byte[], byte[]>> {
  private final long maxBytes;
  private final long maxWaitMs;
  private final long maxTurnMs;

  /**
   * A poll ends with the record that brings keys and values to {@code maxBytes}, and waits for a
   * first record for {@code maxWaitMs} at most. A turn with records ends after {@code maxTurnMs}.
   */
  BoundedPolls(long maxBytes, long maxWaitMs, long maxTurnMs) {
    this.maxBytes = maxBytes;
    this.maxWaitMs = maxWaitMs;
    this.maxTurnMs = maxTurnMs;
  }

  @Override
  public Consumer<byte[], byte[]> apply(Map<String, Object> properties) {
    return new BoundedConsumer(
        properties, new BoundedValues(maxBytes), Duration.ofMillis(maxWaitMs), maxTurnMs);
  }

  private static final class BoundedConsumer extends KafkaConsumer<byte[], byte[]> {
    private static final Duration QUIET = Duration.ofMillis(200);

    private final BoundedValues values;
    private final Duration maxWait;
    private final long maxTurnMs;
    private long turnBeganNanos;
    private boolean hasReturnedRecords;

    BoundedConsumer(
        Map<String, Object> properties, BoundedValues values, Duration maxWait, long maxTurnMs) {
      super(properties, new ByteArrayDeserializer(), values);
      this.values = values;
      this.maxWait = maxWait;
      this.maxTurnMs = maxTurnMs;
    }

    /** Begins a turn of KafkaIO's reader on Prism (Beam 2.73, ReadFromKafkaDoFn). */
    @Override
    public void seek(TopicPartition partition, long offset) {
      hasReturnedRecords = false;
      turnBeganNanos = System.nanoTime();
      super.seek(partition, offset);
    }

    /**
     * In a turn that has records, waits for more for {@code QUIET} at most. A turn without more
     * ends, and only then do its records go on; otherwise they would wait for all of the timeout.
     * No records end a turn, as they do when {@code maxTurnMs} are over.
     */
    @Override
    public ConsumerRecords<byte[], byte[]> poll(Duration timeout) {
      values.beginPoll();
      if (hasReturnedRecords
          && System.nanoTime() - turnBeganNanos > Duration.ofMillis(maxTurnMs).toNanos()) {
        return ConsumerRecords.empty();
      }
      Duration limit = hasReturnedRecords ? QUIET : maxWait;
      ConsumerRecords<byte[], byte[]> records =
          super.poll(timeout.compareTo(limit) < 0 ? timeout : limit);
      hasReturnedRecords |= !records.isEmpty();
      return records;
    }

    /** KafkaIO's reader on Flink calls this one (Beam 2.73, KafkaUnboundedReader). */
    @Override
    @Deprecated
    public ConsumerRecords<byte[], byte[]> poll(long timeoutMs) {
      values.beginPoll();
      return super.poll(timeoutMs);
    }
  }

  /**
   * Refuses a value when the poll has enough. KafkaConsumer (3.9, CompletedFetch.fetchRecords) then
   * returns the records before it, and asks again for the refused one in the next poll. It logs this
   * as an error, with the text of {@code toString}; with java.util.logging the logger is off.
   */
  private static final class BoundedValues implements Deserializer<byte[]> {
    // A field, because java.util.logging forgets the level of a logger that nothing refers to.
    private static final Logger CONSUMER_LOGGER =
        Logger.getLogger("org.apache.kafka.clients.consumer.internals.CompletedFetch");

    private final long maxBytes;
    private long bytes;

    BoundedValues(long maxBytes) {
      CONSUMER_LOGGER.setLevel(Level.OFF);
      this.maxBytes = maxBytes;
    }

    void beginPoll() {
      bytes = 0;
    }

    @Override
    public byte[] deserialize(String topic, Headers headers, ByteBuffer data) {
      if (bytes >= maxBytes) {
        throw new PollIsFull();
      }
      byte[] value = new byte[data.remaining()];
      data.duplicate().get(value);
      bytes += value.length;
      return value;
    }

    @Override
    public byte[] deserialize(String topic, byte[] data) {
      return data;
    }

    @Override
    public String toString() {
      return "not an error: a poll ended at " + maxBytes + " bytes, the next one goes on";
    }
  }

  private static final class PollIsFull extends SerializationException {
    PollIsFull() {
      super("the poll has enough bytes; the record comes with the next");
    }
  }
}
