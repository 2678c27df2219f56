package beam_pipeline;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.BitSet;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.Optional;
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
 * records cross by thousands. A pack's data is its sections one after the other, each padded to 8
 * bytes. They are laid out as Arrow's buffers are (little-endian; ends begin with a zero; bit i of
 * {@code valid} is record i), so that Python need not look at the records one by one. The data is in
 * the element or in a file ({@link PackFiles}). An element has several packs where a source reads
 * several partitions.
 */
final class Pack {
  private static final Schema PACK =
      Schema.builder()
          .addStringField("topic")
          .addInt32Field("partition")
          .addInt32Field("timestamp_type")
          .addInt32Field("records")
          .addArrayField("lengths", FieldType.INT32) // of the sections, in bytes without padding
          .addByteArrayField("data") // the sections; empty where there is a file
          .addStringField("file") // its path, or empty
          .build();

  /** The elements: some packs. */
  static final Schema PACKS =
      Schema.builder().addArrayField("packs", FieldType.row(PACK)).build();

  private static final byte[] PADDING = new byte[Long.BYTES];

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

  /** Returns an element with packs, and their data. */
  static Row toRow(Collection<Pack> packs) {
    return elementOf(packs.stream().map(Pack::toRow).collect(Collectors.toList()));
  }

  /** Returns an element with this pack, and its data in a file; in the element if that failed. */
  Row toRow(PackFiles files) {
    Optional<String> file = files.write(this);
    Row row = file.isPresent() ? toRow(new byte[0], file.get()) : toRow();
    return elementOf(Collections.singletonList(row));
  }

  private static Row elementOf(List<Row> packs) {
    return Row.withSchema(PACKS).attachValues(packs);
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
    return 0L + keys.bytes + values.bytes + headerKeys.bytes + headerValues.bytes;
  }

  /** Returns the size of the data. */
  int dataBytes() {
    return sections().stream().mapToInt(section -> padded(section.bytes())).sum();
  }

  void writeData(OutputStream out) throws IOException {
    for (Section section : sections()) {
      section.writeTo(out);
      out.write(PADDING, 0, padded(section.bytes()) - section.bytes());
    }
  }

  private Row toRow() {
    ByteArrayOutputStream data = new ByteArrayOutputStream(dataBytes());
    try {
      writeData(data);
    } catch (IOException error) {
      throw new AssertionError("memory can be written", error);
    }
    return toRow(data.toByteArray(), "");
  }

  private Row toRow(byte[] data, String file) {
    List<Integer> lengths = sections().stream().map(Section::bytes).collect(Collectors.toList());
    return Row.withSchema(PACK)
        .attachValues(source.get(0), source.get(1), source.get(2), records, lengths, data, file);
  }

  /** Returns what {@code batch_of_pack} in Python reads, in its order. */
  private List<Section> sections() {
    return Arrays.asList(
        offsets,
        timestamps,
        keys.ends,
        keys.valid(),
        keys,
        values.ends,
        values.valid(),
        values,
        headerEnds,
        headerKeys.ends,
        headerKeys.valid(),
        headerKeys,
        headerValues.ends,
        headerValues.valid(),
        headerValues);
  }

  private static int padded(int bytes) {
    return Math.addExact(bytes, PADDING.length - 1) & -PADDING.length;
  }

  /** A part of a pack's data, and one buffer of Arrow's. */
  private interface Section {
    int bytes();

    void writeTo(OutputStream out) throws IOException;
  }

  /** Holds the values themselves until they are written: large ones are copied once. */
  private static final class Binaries implements Section {
    int count;
    final Numbers ends = new Numbers().addInt(0); // int32, one more than there are values
    private int bytes;
    private final List<byte[]> values = new ArrayList<>();
    private final BitSet valid = new BitSet();

    void add(byte[] value) {
      if (value != null) {
        valid.set(count);
        values.add(value);
        bytes = Math.addExact(bytes, value.length);
      }
      count++;
      ends.addInt(bytes);
    }

    /** Returns a bitmap, without a bit where no value is null. */
    Numbers valid() {
      Numbers bitmap = new Numbers();
      if (values.size() < count) {
        for (byte bits : Arrays.copyOf(valid.toByteArray(), (count + 7) / 8)) {
          bitmap.addByte(bits);
        }
      }
      return bitmap;
    }

    @Override
    public int bytes() {
      return bytes;
    }

    @Override
    public void writeTo(OutputStream out) throws IOException {
      for (byte[] value : values) {
        out.write(value);
      }
    }
  }

  private static final class Numbers implements Section {
    private ByteBuffer buffer = allocate(256);

    Numbers addLong(long number) {
      room(Long.BYTES).putLong(number);
      return this;
    }

    Numbers addInt(int number) {
      room(Integer.BYTES).putInt(number);
      return this;
    }

    Numbers addByte(byte number) {
      room(Byte.BYTES).put(number);
      return this;
    }

    @Override
    public int bytes() {
      return buffer.position();
    }

    @Override
    public void writeTo(OutputStream out) throws IOException {
      out.write(buffer.array(), 0, buffer.position());
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
