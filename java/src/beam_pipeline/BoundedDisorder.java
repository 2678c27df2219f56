package beam_pipeline;

import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.apache.beam.sdk.io.kafka.KafkaRecord;
import org.apache.beam.sdk.io.kafka.KafkaTimestampType;
import org.apache.beam.sdk.io.kafka.TimestampPolicy;
import org.apache.beam.sdk.io.kafka.TimestampPolicyFactory;
import org.apache.beam.sdk.transforms.windowing.BoundedWindow;
import org.apache.kafka.common.TopicPartition;
import org.joda.time.Duration;
import org.joda.time.Instant;

/**
 * The watermark of a partition, by the timestamps of its records.
 *
 * <ul>
 *   <li>A timestamp of the broker (LogAppendTime) is the watermark: they rise.
 *   <li>A timestamp of a producer (CreateTime) may be out of order by a bound. The watermark is the
 *       bound before the newest one. A timestamp of the future counts as now if it is ahead by the
 *       bound at most; beyond it, and where it is missing, it does not count.
 *   <li>A partition that is read to its end follows the clock, less the bound, or less two seconds
 *       for the broker's timestamps, as in KafkaIO's own policy (Beam 2.73, LogAppendTimePolicy).
 * </ul>
 *
 * <p>The watermark never goes back. The timestamp of an element is its record's, within Beam's
 * range.
 */
final class BoundedDisorder extends TimestampPolicy<byte[], byte[]> {
  private static final Duration APPEND_IDLE = Duration.standardSeconds(2);

  private final Duration idle;
  private final Duration maxOutOfOrder;
  private Instant watermark;

  private BoundedDisorder(Duration idle, Duration maxOutOfOrder, Instant watermark) {
    this.idle = idle;
    this.maxOutOfOrder = maxOutOfOrder;
    this.watermark = watermark;
  }

  /** Makes policies with a bound for the topics that producers stamp. */
  static final class Factory implements TimestampPolicyFactory<byte[], byte[]> {
    private final ArrayList<String> createTimeTopics;
    private final Duration maxOutOfOrder;

    Factory(List<String> createTimeTopics, Duration maxOutOfOrder) {
      this.createTimeTopics = new ArrayList<>(createTimeTopics);
      this.maxOutOfOrder = maxOutOfOrder;
    }

    @Override
    public TimestampPolicy<byte[], byte[]> createTimestampPolicy(
        TopicPartition partition, Optional<Instant> previous) {
      return new BoundedDisorder(
          createTimeTopics.contains(partition.topic()) ? maxOutOfOrder : APPEND_IDLE,
          maxOutOfOrder,
          previous.orElse(BoundedWindow.TIMESTAMP_MIN_VALUE));
    }
  }

  @Override
  public Instant getTimestampForRecord(
      PartitionContext context, KafkaRecord<byte[], byte[]> record) {
    long stamp = record.getTimestamp();
    if (record.getTimestampType() == KafkaTimestampType.LOG_APPEND_TIME) {
      advance(within(stamp));
    } else if (record.getTimestampType() == KafkaTimestampType.CREATE_TIME && stamp >= 0) {
      long now = System.currentTimeMillis();
      if (stamp <= now + maxOutOfOrder.getMillis()) {
        advance(within(Math.min(stamp, now)).minus(maxOutOfOrder));
      }
    }
    return within(stamp);
  }

  @Override
  public Instant getWatermark(PartitionContext context) {
    if (context.getMessageBacklog() == 0) {
      advance(context.getBacklogCheckTime().minus(idle));
    }
    return watermark;
  }

  private void advance(Instant reached) {
    if (reached.isAfter(watermark)) {
      watermark = reached;
    }
  }

  private static Instant within(long millis) {
    long least = BoundedWindow.TIMESTAMP_MIN_VALUE.getMillis();
    long most = BoundedWindow.TIMESTAMP_MAX_VALUE.getMillis();
    return new Instant(Math.max(least, Math.min(most, millis)));
  }
}
