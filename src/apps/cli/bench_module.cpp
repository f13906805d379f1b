#include "cli/bench_module.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/files.h"
#include "cli/options.h"
#include "cli/signals.h"

namespace nibble::cli {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxConfigBytes = std::size_t{1} << 20;
// A row of calls takes at least so long, so that a launch's and a wait's microseconds do not count.
constexpr double kRowSeconds = 5e-3;

// One H100 SXM (docs/performance.md).
constexpr double kH100Bytes = 3.15e12;
constexpr double kH100Bf16 = 794e12;
constexpr double kH100Kernel = 1.9e-6;

void flatten(const nlohmann::json& object, const std::string& prefix, std::map<std::string, double>& out) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_number()) out[prefix + key] = value.get<double>();
    if (value.is_boolean()) out[prefix + key] = value.get<bool>() ? 1 : 0;
    if (value.is_object() && prefix.empty()) flatten(value, key + ".", out);
  }
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr std::int32_t kMaxRepetitions = 10000;

double peak_of(const MachineLimits& limits) {
  return limits.bf16_gflops > 0 ? limits.bf16_gflops : limits.fp32_gflops;
}

}  // namespace

Result<ShapeFile> ShapeFile::read(const std::filesystem::path& file) {
  NIB_TRY(const std::string text, read_file(file, kMaxConfigBytes));
  ShapeFile shape;
  shape.name_ = file.string();
  try {
    const nlohmann::json object = nlohmann::json::parse(text);
    if (!object.is_object()) return bad_input(fmt::format("{}: not a JSON object", shape.name_));
    flatten(object, "", shape.numbers_);
  } catch (const nlohmann::json::exception& e) {
    return bad_input(fmt::format("{}: not valid JSON: {}", shape.name_, e.what()));
  }
  return shape;
}

Result<std::int32_t> ShapeFile::size(const std::string& key) const {
  const auto it = numbers_.find(key);
  if (it == numbers_.end()) return bad_input(fmt::format("{}: '{}' is missing", name_, key));
  const bool fits = it->second >= 0 && it->second <= std::numeric_limits<std::int32_t>::max() &&
                    it->second == std::floor(it->second);
  if (!fits) return bad_input(fmt::format("{}: '{}' is {}, no size", name_, key, it->second));
  return static_cast<std::int32_t>(it->second);
}

double ShapeFile::number(const std::string& key, double missing) const {
  const auto it = numbers_.find(key);
  return it != numbers_.end() ? it->second : missing;
}

Result<std::shared_ptr<ModuleDevice>> open_device(const CommonOptions& common) {
  return ModuleDevice::open({.device = common.device, .num_threads = common.threads});
}

const char* Limits::peak_name() const {
  if (on_gpu) return "bf16 wgmma";
  return before.bf16_gflops > 0 ? "bf16-dot" : "fp32-fma";
}

double Limits::peak_gflops() const { return (peak_of(before) + peak_of(after)) / 2; }

void measure_now(const ModuleDevice& device, const CommonOptions& common, MachineLimits& limits) {
  limits = device.kind() == DeviceKind::cuda ? measure_gpu_limits() : measure_limits(common.threads, "");
}

Floor floor_of(const Work& work, const Limits& limits) {
  const double read = limits.on_gpu ? kH100Bytes : limits.read_gb_s() * 1e9;
  const double peak = limits.on_gpu ? kH100Bf16 * (work.is_fp8 ? 2 : 1) : limits.peak_gflops() * 1e9;
  const double launches = limits.on_gpu ? kH100Kernel * work.num_kernels : 0;
  const double by_bytes = (read > 0 ? work.bytes / read : 0) + launches;
  const double by_flops = peak > 0 ? work.flops / peak : 0;
  return {std::max(by_bytes, by_flops), by_flops > by_bytes};
}

std::string achieved(const Work& work, double seconds, const Limits& limits) {
  if (!(seconds > 0)) return "";
  const bool compute = floor_of(work, limits).by_compute;
  const double rate = (compute ? work.flops : work.bytes) / seconds;
  if (rate >= 1e12)
    return fmt::format("{:.{}f} {}", rate / 1e12, rate >= 1e14 ? 0 : 2, compute ? "TFLOP/s" : "TB/s");
  return fmt::format("{:.1f} {}", rate / 1e9, compute ? "GFLOP/s" : "GB/s");
}

double percent_of_limit(const Work& work, double seconds, const Limits& limits) {
  const bool compute = floor_of(work, limits).by_compute;
  const double limit = 1e9 * (compute ? limits.peak_gflops() : limits.read_gb_s());
  const double rate = (compute ? work.flops : work.bytes) / seconds;
  return limit > 0 && seconds > 0 ? 100 * rate / limit : 0;
}

void TurnOptions::define(OptionSet& options, const std::string& tokens_help) {
  options.add_integers("--tokens,-n", tokens, 1, tokens_help);
  options.add_integer("--layers", layers, 1, kMaxTurns,
                      "Layers that take turns; as many as make weights cold");
  options.add_integer("--repetitions,-r", repetitions, 1, kMaxRepetitions,
                      "Timed rows of calls, of which the median counts");
  options.add_choice("--output,-o", output, {"md", "json"}, "Form of the result");
  add_common_options(options, common, "The same as -o json");
}

std::vector<Column> timing_columns() {
  return {{"MB", true},       {"floor us", true},   {"median us", true}, {"x floor", true},
          {"achieved", true}, {"% of limit", true}, {"error", true}};
}

std::vector<std::string> timing_cells(const Timing& t, const Limits& limits) {
  const double floor = floor_of(t.work, limits).seconds;
  return {fmt::format("{:.1f}", t.work.bytes / 1e6),
          fmt::format("{:.1f}", floor * 1e6),
          fmt::format("{:.1f}", t.seconds * 1e6),
          fmt::format("{:.2f}", t.seconds / floor),
          achieved(t.work, t.seconds, limits),
          fmt::format("{:.1f}", percent_of_limit(t.work, t.seconds, limits)),
          fmt::format("{:.1e}", t.error)};
}

void write_timing(JsonWriter& json, const Timing& t, const Limits& limits) {
  const Floor floor = floor_of(t.work, limits);
  json.field("bytes", t.work.bytes).field("flops", t.work.flops).field("median_s", t.seconds);
  json.field("floor_s", floor.seconds).field("floor_by", floor.by_compute ? "compute" : "bytes");
  json.field("times_floor", t.seconds / floor.seconds);
  json.field("gb_s", t.work.bytes / t.seconds / 1e9).field("gflops", t.work.flops / t.seconds / 1e9);
  json.field("percent_of_limit", percent_of_limit(t.work, t.seconds, limits)).field("error", t.error);
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Result<double> median_seconds(ModuleDevice& device, std::int32_t repetitions,
                              const std::function<Status()>& launch) {
  double once = 0;
  for (int warm_up = 0; warm_up < 3; ++warm_up) {  // plain, recorded, replayed
    const auto start = Clock::now();
    NIB_TRY_STATUS(launch());
    NIB_TRY_STATUS(device.synchronize());
    once = seconds_since(start);
    if (interrupted()) return interrupted_error();
  }
  const auto calls =
      static_cast<std::int32_t>(std::clamp(std::ceil(kRowSeconds / std::max(once, 1e-7)), 1.0, 1e5));
  std::vector<double> samples;
  for (std::int32_t i = 0; i < repetitions; ++i) {
    const auto start = Clock::now();
    for (std::int32_t call = 0; call < calls; ++call) NIB_TRY_STATUS(launch());
    NIB_TRY_STATUS(device.synchronize());
    samples.push_back(seconds_since(start) / calls);
    if (interrupted()) return interrupted_error();
  }
  return median(std::move(samples));
}

std::vector<float> random_normal(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  // A few thousand draws repeated with another step each time: a benchmark's inputs need no more.
  std::vector<float> draws(8191);
  std::normal_distribution<float> normal;
  for (float& draw : draws) draw = normal(random);
  std::vector<float> values(count);
  std::size_t at = seed % draws.size();
  for (std::size_t i = 0; i < count; ++i) {
    values[i] = draws[at];
    at += 1 + i / draws.size() % 1021;
    at -= at >= draws.size() ? draws.size() : 0;
  }
  return values;
}

Result<DeviceArray> copy_to(ModuleDevice& device, std::span<const float> values) {
  NIB_TRY(DeviceArray array, device.allocate(values.size_bytes()));
  NIB_TRY_STATUS(device.upload(array.data(), values.data(), values.size_bytes()));
  return array;
}

Result<std::vector<float>> copy_from(ModuleDevice& device, const float* values, std::size_t count) {
  std::vector<float> here(count);
  NIB_TRY_STATUS(device.download(here.data(), values, count * sizeof(float)));
  return here;
}

double row_error(std::span<const float> actual, std::span<const double> expected, std::size_t width) {
  double worst = actual.size() == expected.size() ? 0 : HUGE_VAL;
  for (std::size_t begin = 0; begin + width <= expected.size() && worst < HUGE_VAL; begin += width) {
    double squares = 0;
    double largest = 0;
    for (std::size_t i = begin; i < begin + width; ++i) {
      const double diff = std::abs(static_cast<double>(actual[i]) - expected[i]);
      squares += expected[i] * expected[i];
      largest = std::isfinite(diff) ? std::max(largest, diff) : HUGE_VAL;
    }
    worst = std::max(worst, largest / std::sqrt(squares / static_cast<double>(width)));
  }
  return worst;
}

double error_bound(const std::string& scheme) { return scheme.ends_with("a8") ? 0.12 : 0.05; }

Status check_errors(double worst, double bound) {
  if (worst <= bound) return {};
  return runtime_error(fmt::format(
      "a result differs from the reference by {:.3g} of its rms; {:.3g} is the bound", worst, bound));
}

Result<ModuleStamp> make_module_stamp(const ModuleDevice& device, const CommonOptions& common,
                                      const std::vector<std::string>& arguments) {
  NIB_TRY(const SystemInfo system, system_info());
  ModuleStamp stamp{.version = version_info(), .device = device.description()};
  stamp.threads = common.threads > 0 ? common.threads : system.num_threads;
  for (const std::string& word : arguments) stamp.flags += (stamp.flags.empty() ? "" : " ") + word;
  return stamp;
}

void write_stamp(JsonWriter& json, const ModuleStamp& stamp) {
  json.field("commit", stamp.version.commit).field("version", stamp.version.version);
  json.field("compiler", stamp.version.compiler).field("flags", stamp.flags);
  json.field("device", stamp.device).field("threads", stamp.threads);
}

void write_limits(JsonWriter& json, const Limits& limits) {
  json.key("limits").begin_object();
  json.field("read_gb_s", limits.read_gb_s()).field("read_gb_s_before", limits.before.read_gb_s);
  json.field("read_gb_s_after", limits.after.read_gb_s).field("peak", limits.peak_name());
  json.field("peak_gflops", limits.peak_gflops()).end_object();
}

std::string describe(const ModuleStamp& stamp, const std::string& command, const Limits& limits) {
  const double peak = limits.peak_gflops();
  const bool in_tera = peak >= 1e5;
  return fmt::format(
      "{}: `nibble {}{}{}`, {} {}\n"
      "limits measured in this run: read {:.1f} GB/s (before {:.1f}, after {:.1f}), {} {:.1f} {}FLOP/s\n",
      stamp.device, command, stamp.flags.empty() ? "" : " ", stamp.flags, stamp.version.version,
      stamp.version.commit, limits.read_gb_s(), limits.before.read_gb_s, limits.after.read_gb_s,
      limits.peak_name(), in_tera ? peak / 1e3 : peak, in_tera ? "T" : "G");
}

std::vector<std::string> split_list(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace nibble::cli
