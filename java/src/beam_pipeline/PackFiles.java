package beam_pipeline;

import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.io.Serializable;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * Files for the data of {@link Pack}s, where Java and Python are on one machine (Prism).
 *
 * <p>So a runner passes on a name. Python removes a file when it has opened it. A pack whose file is
 * gone fails its bundle; nothing is lost then, since the next epoch reads its records again.
 */
final class PackFiles implements Serializable {
  private static final int BUFFER_BYTES = 1 << 16;
  private static final Logger LOG = Logger.getLogger(PackFiles.class.getName());
  private static final AtomicBoolean TOLD = new AtomicBoolean();

  private final String directory;

  PackFiles(String directory) {
    this.directory = directory;
  }

  /**
   * Writes the data of a pack, and returns the path; nothing if the directory can't be written.
   *
   * <p>The name ends with the size of the data, by which Prism counts what waits in it.
   */
  Optional<String> write(Pack pack) {
    Path file =
        Paths.get(directory, String.format("%s.%d.pack", UUID.randomUUID(), pack.dataBytes()));
    try {
      try (OutputStream out =
          new BufferedOutputStream(
              Files.newOutputStream(file, StandardOpenOption.CREATE_NEW), BUFFER_BYTES)) {
        pack.writeData(out);
      }
      return Optional.of(file.toString());
    } catch (IOException error) {
      file.toFile().delete();
      if (TOLD.compareAndSet(false, true)) {
        LOG.log(Level.WARNING, "packs can't be written to files and go through the runner", error);
      }
      return Optional.empty();
    }
  }
}
