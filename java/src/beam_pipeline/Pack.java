package beam_pipeline;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.Collection;
import java.util.List;
import java.util.stream.Collectors;
import org.apache.beam.sdk.io.kafka.KafkaRecord;
import org.apache.beam.sdk.schemas.Schema;
import org.apache.beam.sdk.schemas.Schema.FieldType;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.beam.sdk.values.Row;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.joda.time.Instant;

/**
 * Records of one partition and timestamp type, in order, for Python.
 *
 * <p>An element costs the runner and Python's worker many times what a record's bytes cost them, so
 * records cross by thousands. A pack's fields are laid out as Arrow's buffers are (little-endian;
 * ends begin with a zero; bit i of {@code valid} is record i), so that Python need not look at them
 * one by one. An element has several packs where a source reads several partitions.
 */
final class Pack {
  private static final Schema BINARIES =
      Schema.builder()
          .addByteArrayField("ends") // int32, one more than there are values
          .addByteArrayField("data")
          .addByteArrayField("valid") // a bitmap; empty where no value is null
          .build();

  private static final Schema PACK =
      Schema.builder()
          .addStringField("topic")
          .addInt32Field("partition")
          .addInt32Field("timestamp_type")
          .addByteArrayField("offsets") // int64
          .addByteArrayField("timestamps") // int64, milliseconds
          .addField("keys", FieldType.row(BINARIES))
          .addField("values", FieldType.row(BINARIES))
          .addByteArrayField("header_ends") // int32, into the next two
          .addField("header_keys", FieldType.row(BINARIES))
          .addField("header_values", FieldType.row(BINARIES))
          .build();

  /** The elements: some packs. */
  static final Schema PACKS =
      Schema.builder().addArrayField("packs", FieldType.row(PACK)).build();

  private final List<Object> source;
  private int records;
  private Instant earliest = BoundedWindow.TIMESTAMP_MAX_VALUE;
  private final Numbers offsets = new Numbers();
  private final Numbers timestamps = new Numbers();
  private final Binaries keys = new Binaries();
  private final Binaries values = new Binaries();
  private final Numbers headerEnds = new Numbers().addInt(0);
  private final Binaries headerKeys = new Binaries();
  private final Binaries headerValues = new Binaries();

  Pack(List<Object> source) {
    this.source = source;
  }

  /** Returns what the records of a pack have in common: topic, partition and timestamp type. */
  static List<Object> sourceOf(KafkaRecord<byte[], byte[]> record) {
    return Arrays.asList(record.getTopic(), record.getPartition(), record.getTimestampType().id);
  }

  /** Returns an element with packs. */
  static Row toRow(Collection<Pack> packs) {
    List<Row> rows = packs.stream().map(Pack::toRow).collect(Collectors.toList());
    return Row.withSchema(PACKS).attachValues(rows);
  }

  List<Object> source() {
    return source;
  }

  int records() {
    return records;
  }

  Instant earliest() {
    return earliest;
  }

  void add(KafkaRecord<byte[], byte[]> record, Instant timestamp) {
    records++;
    if (timestamp.isBefore(earliest)) {
      earliest = timestamp;
    }
    offsets.addLong(record.getOffset());
    timestamps.addLong(record.getTimestamp());
    keys.add(record.getKV().getKey());
    values.add(record.getKV().getValue());
    Headers headers = record.getHeaders();
    if (headers != null) {
      for (Header header : headers) {
        headerKeys.add(header.key().getBytes(StandardCharsets.UTF_8));
        headerValues.add(header.value());
      }
    }
    headerEnds.addInt(headerKeys.count);
  }

  long bytes() {
    return keys.bytes + values.bytes + headerKeys.bytes + headerValues.bytes;
  }

  private Row toRow() {
    return Row.withSchema(PACK)
        .attachValues(
            source.get(0),
            source.get(1),
            source.get(2),
            offsets.toBytes(),
            timestamps.toBytes(),
            keys.toRow(),
            values.toRow(),
            headerEnds.toBytes(),
            headerKeys.toRow(),
            headerValues.toRow());
  }

  /** Holds the values themselves until they are put together: large ones are copied once. */
  private static final class Binaries {
    int count;
    long bytes;
    private final List<byte[]> values = new ArrayList<>();
    private final Numbers ends = new Numbers().addInt(0);
    private final BitSet valid = new BitSet();

    void add(byte[] value) {
      if (value != null) {
        valid.set(count);
        values.add(value);
        bytes += value.length;
      }
      count++;
      ends.addInt(Math.toIntExact(bytes));
    }

    Row toRow() {
      byte[] bitmap = new byte[0];
      if (valid.cardinality() < count) {
        bitmap = Arrays.copyOf(valid.toByteArray(), (count + 7) / 8);
      }
      ByteBuffer data = ByteBuffer.allocate(Math.toIntExact(bytes));
      values.forEach(data::put);
      values.clear();
      return Row.withSchema(BINARIES).attachValues(ends.toBytes(), data.array(), bitmap);
    }
  }

  private static final class Numbers {
    private ByteBuffer buffer = allocate(256);

    Numbers addLong(long number) {
      room(Long.BYTES).putLong(number);
      return this;
    }

    Numbers addInt(int number) {
      room(Integer.BYTES).putInt(number);
      return this;
    }

    byte[] toBytes() {
      return Arrays.copyOf(buffer.array(), buffer.position());
    }

    private ByteBuffer room(int bytes) {
      if (buffer.remaining() < bytes) {
        buffer.flip();
        buffer = allocate(2 * buffer.capacity()).put(buffer);
      }
      return buffer;
    }

    private static ByteBuffer allocate(int bytes) {
      return ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN);
    }
  }
}
