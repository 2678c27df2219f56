package beam_pipeline;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.coders.ByteArrayCoder;
import org.apache.beam.sdk.coders.NullableCoder;
import org.apache.beam.sdk.io.Read;
import org.apache.beam.sdk.io.kafka.KafkaIO;
import org.apache.beam.sdk.io.kafka.RecordSources;
import org.apache.beam.sdk.options.ExperimentalOptions;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.values.PBegin;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.Row;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.joda.time.Duration;

/**
 * Reads Kafka topics with KafkaIO (Beam 2.73) and packs their records; see {@link Pack}.
 *
 * <p>Starts at the group's committed offsets and commits nothing. The elements are in the global
 * window.
 */
public final class ReadRecords extends PTransform<PBegin, PCollection<Row>> {
  private final transient Settings settings;

  /** The fields of a JSON object: a constructor that Python calls can't take a map (Beam 2.73). */
  static final class Settings {
    /** Properties of the consumers. */
    public Map<String, Object> consumerConfig;

    public List<String> topics;

    /** Whether the watermark follows the records' timestamps ({@link BoundedDisorder}), or the clock. */
    public boolean followTimestamps;

    /** Those of the topics whose records are stamped by their producers. */
    public List<String> createTimeTopics;

    /**
     * Whether the source has no class of this project's: Flink (1.19) puts it into checkpoints, and
     * Beam's coder looks for its classes where Beam's own are.
     */
    public boolean plainSource;

    /** How far a producer's timestamp may be behind those before it. */
    public long maxOutOfOrderMs;

    /** A pack goes on when it has so many records, */
    public long maxPackRecords;

    /** or keys and values of so many bytes; a poll ends there, too. */
    public long maxPackBytes;

    /** Where packs have their data in files, if Python runs on the same machine; else null. */
    public String packsDirectory;

    /** How long a turn of a partition waits for its first record. */
    public long maxWaitMs;

    /** How long a turn with records goes on. */
    public long maxTurnMs;
  }

  /**
   * @param settings a JSON object with the fields of {@link Settings}
   */
  public ReadRecords(String settings) throws JsonProcessingException {
    this.settings = new ObjectMapper().readValue(settings, Settings.class);
  }

  @Override
  public PCollection<Row> expand(PBegin begin) {
    boolean isReadByRunner =
        ExperimentalOptions.hasExperiment(
            begin.getPipeline().getOptions(), "use_deprecated_read");
    if (isReadByRunner) {
      // A consumer of several partitions has one fetch at a broker at a time. A fetch for those at
      // their end holds up the one for a partition that has records, for Kafka's default of 500 ms.
      settings.consumerConfig.putIfAbsent("fetch.max.wait.ms", "100");
    }
    NullableCoder<byte[]> bytes = NullableCoder.of(ByteArrayCoder.of());
    KafkaIO.Read<byte[], byte[]> read =
        KafkaIO.<byte[], byte[]>read()
            .withConsumerConfigUpdates(settings.consumerConfig)
            .withKeyDeserializerAndCoder(ByteArrayDeserializer.class, bytes)
            .withValueDeserializerAndCoder(ByteArrayDeserializer.class, bytes)
            .withTopics(settings.topics);
    if (!settings.plainSource) {
      read = read.withConsumerFactoryFn(
              new BoundedPolls(settings.maxPackBytes, settings.maxWaitMs, settings.maxTurnMs));
    }
    if (!settings.followTimestamps) {
      read = read.withProcessingTime();
    } else if (settings.plainSource) {
      read = read.withLogAppendTime();
    } else {
      Duration maxOutOfOrder = Duration.millis(settings.maxOutOfOrderMs);
      read =
          read.withTimestampPolicyFactory(
              new BoundedDisorder.Factory(settings.createTimeTopics, maxOutOfOrder));
    }
    if (isReadByRunner && !settings.plainSource) {
      return begin.apply(
          Read.from(
              new PackedSource(
                  RecordSources.of(read), settings.maxPackRecords, settings.maxPackBytes)));
    }
    PackFiles files =
        settings.packsDirectory == null ? null : new PackFiles(settings.packsDirectory);
    return begin
        .apply(read)
        .apply(new PackRecords(settings.maxPackRecords, settings.maxPackBytes, files));
  }
}
