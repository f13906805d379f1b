// nibble bench load: seconds and GB/s of loading by phase, beside the speed at which the same files
// can be read() from the page cache: into a small buffer, and into memory fresh from the kernel, which
// is what any loader that keeps the weights has to do.

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cli/bench_report.h"
#include "cli/command.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "cli/table.h"
#include "nibble/checkpoint.h"

namespace nibble::cli {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Phase {
  std::string name;
  double seconds = 0;
  std::uint64_t bytes = 0;  // 0 where the phase counts something else
};

struct Piece {
  fs::path file;
  std::uint64_t offset;
  std::uint64_t size;
};

// A buffer that stays in the processor's cache: what is timed is the page cache, not the copy's target.
constexpr std::size_t kBufferBytes = std::size_t{256} << 10;
constexpr std::uint64_t kPieceBytes = std::uint64_t{16} << 20;
constexpr std::size_t kFreshPieces = 64;

std::vector<Piece> pieces_of(const std::set<fs::path>& files) {
  std::vector<Piece> pieces;
  for (const fs::path& file : files) {
    std::error_code error;
    const std::uint64_t size = fs::file_size(file, error);
    for (std::uint64_t offset = 0; !error && offset < size; offset += kPieceBytes) {
      pieces.push_back({file, offset, std::min(kPieceBytes, size - offset)});
    }
  }
  return pieces;
}

// Reads a piece to `to`; one that is longer than `room` over and over to the same place.
bool read_piece(const Piece& piece, char* to, std::size_t room) {
  const int fd = ::open(piece.file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  std::uint64_t done = 0;
  while (done < piece.size) {
    const std::size_t at = static_cast<std::size_t>(done) % room;
    const auto want = static_cast<std::size_t>(std::min<std::uint64_t>(room - at, piece.size - done));
    const ssize_t n = ::pread(fd, to + at, want, static_cast<off_t>(piece.offset + done));
    if (n <= 0) break;
    done += static_cast<std::uint64_t>(n);
  }
  ::close(fd);
  return done == piece.size;
}

// GB/s of read(piece index) over all pieces by `num_threads` threads; 0 if a file can't be read.
template <class Read>
double pieces_speed(const std::vector<Piece>& pieces, int num_threads, Read&& read) {
  std::atomic<std::size_t> next{0};
  std::atomic<bool> good{true};
  std::uint64_t bytes = 0;
  for (const Piece& piece : pieces) bytes += piece.size;
  const auto start = Clock::now();
  std::vector<std::thread> threads;
  for (int t = 0; t < num_threads; ++t) {
    threads.emplace_back([&] {
      std::vector<char> buffer(kBufferBytes);
      for (std::size_t i = next++; i < pieces.size(); i = next++) {
        if (!read(i, buffer)) good = false;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = seconds_since(start);
  return good && seconds > 0 ? static_cast<double>(bytes) / seconds / 1e9 : 0;
}

double read_speed(const std::vector<Piece>& pieces, int num_threads) {
  return pieces_speed(pieces, num_threads, [&](std::size_t i, std::vector<char>& buffer) {
    return read_piece(pieces[i], buffer.data(), buffer.size());
  });
}

// The same into untouched memory, of huge pages where there are any; of the first GiB of the files.
double fresh_read_speed(std::vector<Piece> pieces, int num_threads) {
  pieces.resize(std::min(pieces.size(), kFreshPieces));
  const std::size_t bytes = pieces.size() * kPieceBytes;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  ::madvise(memory, bytes, MADV_HUGEPAGE);
  const double speed = pieces_speed(pieces, num_threads, [&](std::size_t i, const std::vector<char>&) {
    return read_piece(pieces[i], static_cast<char*>(memory) + i * kPieceBytes, kPieceBytes);
  });
  ::munmap(memory, bytes);
  return speed;
}

// Splits a load's time by the phases its progress callback names.
class PhaseClock {
 public:
  void see(std::string_view phase, std::uint64_t total, std::string_view unit) {
    if (phases_.back().name != phase) {
      close();
      phases_.push_back({std::string(phase), 0, 0});
    }
    if (unit == "bytes") phases_.back().bytes = std::max(phases_.back().bytes, total);
  }
  std::vector<Phase> finish() {
    close();
    return phases_;
  }
  [[nodiscard]] double seconds() const { return seconds_since(start_); }

 private:
  void close() {
    phases_.back().seconds = seconds_since(phase_start_);
    phase_start_ = Clock::now();
  }

  Clock::time_point start_ = Clock::now();
  Clock::time_point phase_start_ = start_;
  std::vector<Phase> phases_{{"open", 0, 0}};
};

struct LoadResult {
  std::uint64_t file_bytes = 0;
  std::vector<double> seconds;
  std::vector<Phase> phases;  // of the fastest load
  std::vector<double> read_one_thread;
  std::vector<double> read_all_threads;
  std::vector<double> read_fresh;  // all threads, into fresh memory
  std::uint64_t peak_rss = 0;

  [[nodiscard]] double gb_s(double s) const { return s > 0 ? static_cast<double>(file_bytes) / s / 1e9 : 0; }
};

class BenchLoadCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    add_model_options(options, model_);
    options.heading("Benchmark");
    options.add_integer("--repetitions,-r", repetitions_, 1, 100,
                        "Timed loads, after the files are in the page cache");
    options.add_choice("--output,-o", output_, {"md", "json"}, "Form of the result");
    add_common_options(options, common_, "The same as -o json");
  }

  Status run() override {
    NIB_TRY(const LlmOptions llm_options, resolve(model_, common_));
    if (llm_options.dummy_weights) {
      return bad_input("dummy weights have no files to load (--load-format); give a checkpoint directory");
    }
    NIB_TRY(const CheckpointSummary summary, inspect_checkpoint(llm_options.model));
    std::set<fs::path> files;
    for (const TensorSummary& tensor : summary.tensors) files.insert(llm_options.model / tensor.file);
    const std::vector<Piece> pieces = pieces_of(files);
    LoadResult result;
    for (const Piece& piece : pieces) result.file_bytes += piece.size;
    NIB_TRY(const BenchStamp stamp, measure(llm_options, pieces, result));
    return print(common_.json || output_ == "json" ? as_json(stamp, result) : as_text(stamp, result));
  }

 private:
  Result<BenchStamp> measure(const LlmOptions& options, const std::vector<Piece>& pieces,
                             LoadResult& result) const {
    NIB_TRY(const SystemInfo system, system_info());
    const int threads = options.num_threads > 0 ? options.num_threads : system.num_threads;
    const InterruptScope scope(nullptr);
    read_speed(pieces, threads);  // warms the page cache
    BenchStamp stamp;
    for (std::int32_t i = 0; i < repetitions_; ++i) {
      result.read_one_thread.push_back(read_speed(pieces, 1));
      result.read_all_threads.push_back(read_speed(pieces, threads));
      NIB_TRY(stamp, load_once(options, result));
      if (interrupted()) return interrupted_error();
    }
    result.read_one_thread.push_back(read_speed(pieces, 1));
    result.read_all_threads.push_back(read_speed(pieces, threads));
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    result.peak_rss = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
    // Last, as it takes memory of its own.
    for (std::int32_t i = 0; i < repetitions_; ++i) {
      result.read_fresh.push_back(fresh_read_speed(pieces, threads));
    }
    return stamp;
  }

  Result<BenchStamp> load_once(const LlmOptions& options, LoadResult& result) const {
    Progress progress(common_.progress);
    const ProgressCallback show = progress.callback();
    PhaseClock clock;
    auto llm = Llm::load(
        options, [&](std::string_view phase, std::uint64_t done, std::uint64_t total, std::string_view unit) {
          clock.see(phase, total, unit);
          return show(phase, done, total, unit);
        });
    const double seconds = clock.seconds();
    if (interrupted()) return interrupted_error();
    if (!llm.ok()) return std::move(llm).error();
    const bool fastest =
        result.seconds.empty() || seconds < *std::min_element(result.seconds.begin(), result.seconds.end());
    if (fastest) result.phases = clock.finish();
    result.seconds.push_back(seconds);
    return make_stamp(**llm, options, arguments());
  }

  static std::string as_text(const BenchStamp& stamp, const LoadResult& result) {
    Table table({{"phase"}, {"s", true}, {"GB/s", true}});
    for (const Phase& phase : result.phases) {
      const double rate = phase.seconds > 0 ? static_cast<double>(phase.bytes) / phase.seconds / 1e9 : 0;
      table.add({phase.name, fmt::format("{:.3f}", phase.seconds),
                 phase.bytes > 0 ? fmt::format("{:.2f}", rate) : ""});
    }
    const Spread total = spread(result.seconds);
    const double speed = result.gb_s(total.mean);
    const double one = spread(result.read_one_thread).mean;
    const double all = spread(result.read_all_threads).mean;
    std::string text = fmt::format("{}: {} in files, {} threads\n\n{}\n", describe_model(stamp),
                                   format_bytes(result.file_bytes), stamp.threads, table.plain());
    text += fmt::format("load {:.3f} ± {:.3f} s = {:.2f} GB/s, peak memory {}\n", total.mean, total.sd, speed,
                        format_bytes(result.peak_rss));
    text += fmt::format(
        "page cache read(): {:.2f} GB/s by one thread (load: {:.0f} % of it), {:.2f} GB/s by {} ({:.0f} %)\n",
        one, 100 * speed / one, all, stamp.threads, 100 * speed / all);
    const double fresh = spread(result.read_fresh).mean;
    text += fmt::format("read() into fresh memory: {:.2f} GB/s by {} ({:.0f} %)\n", fresh, stamp.threads,
                        100 * speed / fresh);
    return text;
  }

  static std::string as_json(const BenchStamp& stamp, const LoadResult& result) {
    const Spread total = spread(result.seconds);
    const double speed = result.gb_s(total.mean);
    const double one = spread(result.read_one_thread).mean;
    const double all = spread(result.read_all_threads).mean;
    const double fresh = spread(result.read_fresh).mean;
    JsonWriter json;
    json.begin_object();
    write_stamp(json, stamp);
    json.field("file_bytes", result.file_bytes).field("repetitions", result.seconds.size());
    json.field("seconds", result.seconds).field("load_s_mean", total.mean).field("load_s_sd", total.sd);
    json.field("gb_s", speed).field("peak_rss_bytes", result.peak_rss).key("phases").begin_array();
    for (const Phase& phase : result.phases) {
      json.begin_object()
          .field("phase", phase.name)
          .field("seconds", phase.seconds)
          .field("bytes", phase.bytes);
      json.end_object();
    }
    json.end_array()
        .key("page_cache_read_gb_s")
        .begin_object()
        .field("one_thread", one)
        .field("all_threads", all)
        .field("fresh_memory", fresh);
    json.end_object().field("percent_of_read_one_thread", 100 * speed / one);
    json.field("percent_of_read_all_threads", 100 * speed / all);
    json.field("percent_of_read_fresh_memory", 100 * speed / fresh);
    return json.end_object().text() + '\n';
  }

  ModelOptions model_;
  CommonOptions common_;
  std::int32_t repetitions_ = 3;
  std::string output_ = "md";
};

}  // namespace

std::unique_ptr<Command> make_bench_load() { return std::make_unique<BenchLoadCommand>(); }

}  // namespace nibble::cli
