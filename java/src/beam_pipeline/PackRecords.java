package beam_pipeline;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.beam.sdk.io.kafka.KafkaRecord;
import org.apache.beam.sdk.transforms.DoFn;
import org.apache.beam.sdk.transforms.PTransform;
import org.apache.beam.sdk.transforms.ParDo;
import org.apache.beam.sdk.transforms.windowing.GlobalWindow;
import org.apache.beam.sdk.values.PCollection;
import org.apache.beam.sdk.values.Row;
import org.joda.time.Duration;
import org.joda.time.Instant;

/**
 * KafkaIO's records to {@link Pack}s of them, before they leave Java, where KafkaIO is a splittable
 * DoFn (on Prism).
 *
 * <p>In: KafkaIO's records, in the global window. Out: a row of {@link Pack#PACKS} with one pack,
 * which has the timestamp of its earliest record. No bundle's records wait for another's.
 */
final class PackRecords
    extends PTransform<PCollection<KafkaRecord<byte[], byte[]>>, PCollection<Row>> {
  private final long maxRecords;
  private final long maxBytes;
  private final PackFiles files;

  /**
   * A pack goes on when it has so many records, or keys and values of so many bytes.
   *
   * @param files takes the data of packs; null leaves it in the elements
   */
  PackRecords(long maxRecords, long maxBytes, PackFiles files) {
    this.maxRecords = maxRecords;
    this.maxBytes = maxBytes;
    this.files = files;
  }

  @Override
  public PCollection<Row> expand(PCollection<KafkaRecord<byte[], byte[]>> records) {
    return records.apply(ParDo.of(new PackFn(maxRecords, maxBytes, files))).setRowSchema(Pack.PACKS);
  }

  private static final class PackFn extends DoFn<KafkaRecord<byte[], byte[]>, Row> {
    private final long maxRecords;
    private final long maxBytes;
    private final PackFiles files;
    private transient Map<List<Object>, Pack> open;

    PackFn(long maxRecords, long maxBytes, PackFiles files) {
      this.maxRecords = maxRecords;
      this.maxBytes = maxBytes;
      this.files = files;
    }

    @Override
    public Duration getAllowedTimestampSkew() {
      return Duration.millis(Long.MAX_VALUE); // the earliest record's is before the last one's
    }

    @StartBundle
    public void startBundle() {
      open = new LinkedHashMap<>();
    }

    @ProcessElement
    public void process(
        @Element KafkaRecord<byte[], byte[]> record,
        @Timestamp Instant timestamp,
        OutputReceiver<Row> output) {
      Pack pack = open.computeIfAbsent(Pack.sourceOf(record), Pack::new);
      pack.add(record, timestamp);
      if (pack.records() >= maxRecords || pack.bytes() >= maxBytes) {
        open.remove(pack.source());
        output.outputWithTimestamp(toRow(pack), pack.earliest());
      }
    }

    @FinishBundle
    public void finishBundle(FinishBundleContext context) {
      for (Pack pack : open.values()) {
        context.output(toRow(pack), pack.earliest(), GlobalWindow.INSTANCE);
      }
      open = null;
    }

    private Row toRow(Pack pack) {
      return files == null ? Pack.toRow(Collections.singleton(pack)) : pack.toRow(files);
    }
  }
}
