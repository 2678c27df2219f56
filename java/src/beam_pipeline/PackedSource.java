package beam_pipeline;

import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import org.apache.beam.sdk.coders.Coder;
import org.apache.beam.sdk.coders.RowCoder;
import org.apache.beam.sdk.io.UnboundedSource;
import org.apache.beam.sdk.io.kafka.KafkaCheckpointMark;
import org.apache.beam.sdk.io.kafka.KafkaRecord;
import org.apache.beam.sdk.options.PipelineOptions;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.values.Row;
import org.joda.time.Instant;

/**
 * KafkaIO's source, with {@link Pack}s as elements, where a runner reads it itself (Flink).
 *
 * <p>If records left the source one by one, Flink would send each through gRPC to the DoFn that
 * packs them. Out: a row of {@link Pack#PACKS}, in the global window, with the timestamp of its
 * earliest record. It has what KafkaIO holds at that moment, up to a limit. The checkpoint mark is
 * KafkaIO's own: all records that it has passed are in elements.
 */
final class PackedSource extends UnboundedSource<Row, KafkaCheckpointMark> {
  private static final long BYTES_PER_PACK_LIMIT = 4;

  private final UnboundedSource<KafkaRecord<byte[], byte[]>, KafkaCheckpointMark> records;
  private final long maxRecords;
  private final long maxBytes;

  /** An element ends where one of its packs has so many records, or so many bytes. */
  PackedSource(
      UnboundedSource<KafkaRecord<byte[], byte[]>, KafkaCheckpointMark> records,
      long maxRecords,
      long maxBytes) {
    this.records = records;
    this.maxRecords = maxRecords;
    this.maxBytes = maxBytes;
  }

  @Override
  public List<PackedSource> split(int splits, PipelineOptions options) throws Exception {
    List<PackedSource> sources = new ArrayList<>();
    for (UnboundedSource<KafkaRecord<byte[], byte[]>, KafkaCheckpointMark> split :
        records.split(splits, options)) {
      sources.add(new PackedSource(split, maxRecords, maxBytes));
    }
    return sources;
  }

  @Override
  public UnboundedReader<Row> createReader(PipelineOptions options, KafkaCheckpointMark mark)
      throws IOException {
    return new PackReader(this, records.createReader(options, mark));
  }

  @Override
  public Coder<KafkaCheckpointMark> getCheckpointMarkCoder() {
    return records.getCheckpointMarkCoder();
  }

  @Override
  public Coder<Row> getOutputCoder() {
    return RowCoder.of(Pack.PACKS);
  }

  private static final class PackReader extends UnboundedReader<Row> {
    private final PackedSource source;
    private final UnboundedReader<KafkaRecord<byte[], byte[]>> records;
    private Row current;
    private Instant timestamp;

    PackReader(PackedSource source, UnboundedReader<KafkaRecord<byte[], byte[]>> records) {
      this.source = source;
      this.records = records;
    }

    @Override
    public boolean start() throws IOException {
      return pack(records.start());
    }

    @Override
    public boolean advance() throws IOException {
      return pack(records.advance());
    }

    private boolean pack(boolean hasRecord) throws IOException {
      if (!hasRecord) {
        return false;
      }
      Map<List<Object>, Pack> packs = new LinkedHashMap<>();
      Pack pack;
      long bytes = 0;
      do {
        KafkaRecord<byte[], byte[]> record = records.getCurrent();
        pack = packs.computeIfAbsent(Pack.sourceOf(record), Pack::new);
        bytes -= pack.bytes();
        pack.add(record, records.getCurrentTimestamp());
        bytes += pack.bytes();
      } while (pack.records() < source.maxRecords
          && pack.bytes() < source.maxBytes
          && bytes < BYTES_PER_PACK_LIMIT * source.maxBytes
          && records.advance());
      timestamp = BoundedWindow.TIMESTAMP_MAX_VALUE;
      for (Pack each : packs.values()) {
        timestamp = each.earliest().isBefore(timestamp) ? each.earliest() : timestamp;
      }
      current = Pack.toRow(packs.values());
      return true;
    }

    @Override
    public Row getCurrent() throws NoSuchElementException {
      return current;
    }

    @Override
    public Instant getCurrentTimestamp() throws NoSuchElementException {
      return timestamp;
    }

    @Override
    public Instant getWatermark() {
      return records.getWatermark();
    }

    @Override
    public CheckpointMark getCheckpointMark() {
      return records.getCheckpointMark();
    }

    @Override
    public long getSplitBacklogBytes() {
      return records.getSplitBacklogBytes();
    }

    @Override
    public PackedSource getCurrentSource() {
      return source;
    }

    @Override
    public void close() throws IOException {
      records.close();
    }
  }
}
