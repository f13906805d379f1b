// What bench linear, bench moe and bench mla share: shapes from a config.json, limits and floors, timing, and
// the comparison with a reference.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/signals.h"
#include "cli/table.h"
#include "nibble/modules/device.h"
#include "nibble/result.h"
#include "nibble/system.h"

namespace nibble::cli {

// The numbers of a config.json, flat: "hidden_size", "rope_scaling.factor".
class ShapeFile {
 public:
  // bad_input names the file.
  static Result<ShapeFile> read(const std::filesystem::path& file);
  // bad_input: missing, or no whole number from 0 to 2^31 - 1.
  [[nodiscard]] Result<std::int32_t> size(const std::string& key) const;
  // The number, or `missing` where there is none.
  [[nodiscard]] double number(const std::string& key, double missing) const;
  [[nodiscard]] bool has(const std::string& key) const { return numbers_.contains(key); }

 private:
  std::string name_;
  std::map<std::string, double> numbers_;
};

// The device of --device and --threads.
Result<std::shared_ptr<ModuleDevice>> open_device(const CommonOptions& common);

class OptionSet;

// Options of the benches in which layers take turns, so that weights come from memory.
struct TurnOptions {
  CommonOptions common;
  std::vector<std::int32_t> tokens;
  std::int32_t layers = 0;  // 0: as many as make weights cold
  std::int32_t repetitions = 15;
  std::string output = "md";

  void define(OptionSet& options, const std::string& tokens_help);
  [[nodiscard]] bool json() const { return common.json || output == "json"; }
};
constexpr std::int32_t kMaxTurns = 64;

// The layers of create(seed), a Result of a module's unique_ptr: `wanted`, or if that is 0 as many as weigh
// `cold_bytes`, up to `most`.
template <class Create>
auto make_turns(const Create& create, std::int32_t wanted, double cold_bytes, std::int32_t most)
    -> Result<std::vector<std::remove_cvref_t<decltype(create(std::uint64_t{1}).value())>>> {
  std::vector<std::remove_cvref_t<decltype(create(std::uint64_t{1}).value())>> layers;
  double count = wanted;
  do {
    NIB_TRY(auto layer, create(static_cast<std::uint64_t>(layers.size()) + 1));
    if (wanted == 0) {
      count = std::clamp(std::floor(cold_bytes / static_cast<double>(layer->weight_bytes())) + 1, 1.0,
                         static_cast<double>(most));
    }
    layers.push_back(std::move(layer));
    if (interrupted()) return interrupted_error();
  } while (static_cast<double>(layers.size()) < count);
  return layers;
}

// What a piece of work must do at least.
struct Work {
  double bytes = 0;     // to be read: weights, cache entries
  double flops = 0;     // a multiply-add counts two
  int num_kernels = 1;  // that follow each other
  bool is_fp8 = false;  // operands that FP8 matrix units could take
};

// Limits measured in this run, before and after the timings.
struct Limits {
  bool on_gpu = false;
  MachineLimits before;
  MachineLimits after;

  [[nodiscard]] double read_gb_s() const { return (before.read_gb_s + after.read_gb_s) / 2; }
  [[nodiscard]] const char* peak_name() const;
  [[nodiscard]] double peak_gflops() const;
};

// Measures the device now, into `limits`.
void measure_now(const ModuleDevice& device, const CommonOptions& common, MachineLimits& limits);

// The least time a piece of work can take. On a GPU by fixed figures of one H100 SXM, so that tables of
// several days can be compared: bytes at 3.15 TB/s and 1.9 us per kernel, or operations at 794 TFLOP/s (FP8:
// twice that), whichever is more. On a CPU by the limits of this run.
struct Floor {
  double seconds = 0;
  bool by_compute = false;
};
Floor floor_of(const Work& work, const Limits& limits);

// "2.91 TB/s" or "523 TFLOP/s", by what limits the work, and the share of the limit measured in this run.
std::string achieved(const Work& work, double seconds, const Limits& limits);
double percent_of_limit(const Work& work, double seconds, const Limits& limits);

// A timed row of a table.
struct Timing {
  Work work;
  double seconds = 0;
  double error = 0;  // against the definition, in units of the output's rms
};
// MB, floor, median, times floor, achieved, % of limit, error.
std::vector<Column> timing_columns();
std::vector<std::string> timing_cells(const Timing& timing, const Limits& limits);
// The same as fields of the object that is open.
void write_timing(JsonWriter& json, const Timing& timing, const Limits& limits);

// Median seconds of one call of `launch`, which queues work: calls are queued in rows long enough to hide
// what launching and waiting cost, after two calls that warm up. ErrorCode::interrupted after Ctrl-C.
Result<double> median_seconds(ModuleDevice& device, std::int32_t repetitions,
                              const std::function<Status()>& launch);
double median(std::vector<double> values);

// Standard normal values, the same in every run.
std::vector<float> random_normal(std::size_t count, std::uint64_t seed);

Result<DeviceArray> copy_to(ModuleDevice& device, std::span<const float> values);
Result<std::vector<float>> copy_from(ModuleDevice& device, const float* values, std::size_t count);

// Largest |actual - expected| of any row in units of that row's rms; infinite if a value is not finite.
double row_error(std::span<const float> actual, std::span<const double> expected, std::size_t width);
// What rounding explains. Operands are rounded to bf16 at several stages (2^-9 each, seldom over eight of
// their standard deviations together); eight-bit codes may besides be the reference's neighbours.
double error_bound(const std::string& scheme);
// runtime_error if a result of the run was out of its bound.
Status check_errors(double worst, double bound);

// Commit, machine, device and flags.
struct ModuleStamp {
  VersionInfo version;
  std::string device;
  std::string flags;
  int threads = 0;
};
Result<ModuleStamp> make_module_stamp(const ModuleDevice& device, const CommonOptions& common,
                                      const std::vector<std::string>& arguments);
void write_stamp(JsonWriter& json, const ModuleStamp& stamp);
void write_limits(JsonWriter& json, const Limits& limits);
// The lines under a table.
std::string describe(const ModuleStamp& stamp, const std::string& command, const Limits& limits);

// "a,b" in its parts; empty ones are dropped.
std::vector<std::string> split_list(const std::string& text);

}  // namespace nibble::cli
