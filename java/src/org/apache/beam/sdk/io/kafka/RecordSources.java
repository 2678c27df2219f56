package org.apache.beam.sdk.io.kafka;

import org.apache.beam.sdk.io.UnboundedSource;

/** Opens KafkaIO's own source, which only its package sees (Beam 2.73, KafkaIO.Read.makeSource). */
public final class RecordSources {
  private RecordSources() {}

  /** Returns the source that a read without splittable DoFns would use; its coders must be set. */
  public static <K, V> UnboundedSource<KafkaRecord<K, V>, KafkaCheckpointMark> of(
      KafkaIO.Read<K, V> read) {
    return read.makeSource();
  }
}
