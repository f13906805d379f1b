// nibble doctor: what this machine offers nibble, measured, with hints where something is missing.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/resource.h>

#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/line_reader.h"
#include "cli/model_options.h"
#include "cli/option_sources.h"
#include "cli/progress.h"
#include "nibble/system.h"

namespace nibble::cli {

namespace {

struct Check {
  std::string name;
  bool good = true;
  std::string found;
  std::string hint;  // what to do if it isn't good
};

std::string first_line(const char* file) {
  std::ifstream stream(file);
  std::string line;
  std::getline(stream, line);
  return line;
}

Check check_isa(const SystemInfo& info) {
  const bool good = info.isa != "scalar";
  return {"processor instructions", good, fmt::format("{} (of {})", info.isa, fmt::join(info.isas, ", ")),
          "without AVX2 everything runs many times slower; use a newer processor"};
}

Check check_memory(const SystemInfo& info) {
  constexpr std::uint64_t kComfortable = std::uint64_t{2} << 30;
  return {"free memory", info.memory_available >= kComfortable,
          fmt::format("{} of {}", format_bytes(info.memory_available), format_bytes(info.memory_total)),
          "little is left for weights; `nibble plan MODEL` says how much a model needs"};
}

Check check_huge_pages() {
  const std::string modes = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  const bool good =
      modes.find("[always]") != std::string::npos || modes.find("[madvise]") != std::string::npos;
  return {
      "huge pages", good, modes.empty() ? "unknown" : modes,
      "weights in small pages are read slower; write madvise to /sys/kernel/mm/transparent_hugepage/enabled"};
}

// The processor share a container may use; cgroup v2 only.
Check check_cpu_quota(const SystemInfo& info) {
  std::istringstream line(first_line("/sys/fs/cgroup/cpu.max"));
  std::string quota = "max";
  double period = 0;
  line >> quota >> period;
  if (quota == "max" || period <= 0) return {"processor quota", true, "none", ""};
  const double cores = std::atof(quota.c_str()) / period;
  return {"processor quota", cores + 0.5 >= info.num_threads,
          fmt::format("{:.1f} cores for {} threads", cores, info.num_threads),
          fmt::format("threads will wait for each other; use --threads {}",
                      std::max(1, static_cast<int>(cores)))};
}

Check check_address_space() {
  rlimit limit{};
  const bool known = getrlimit(RLIMIT_AS, &limit) == 0;
  const bool good = !known || limit.rlim_cur == RLIM_INFINITY;
  return {"address space", good, good ? "unlimited" : format_bytes(limit.rlim_cur),
          "checkpoints are mapped into memory whole; raise it with ulimit -v unlimited"};
}

Check check_cuda(const SystemInfo& info) {
  const std::string found =
      info.cuda_devices.empty() ? info.cuda_status : fmt::format("{}", fmt::join(info.cuda_devices, ", "));
  return {"CUDA", true, found.empty() ? "no devices" : found, ""};
}

Check check_line_editing() {
  const bool good = LineReader::editing_available();
  return {"line editing", good, good ? "libedit" : "plain",
          "chat has no history and no cursor keys; install libedit2 to get them"};
}

class DoctorCommand final : public Command {
 public:
  void define(OptionSet& options) override { add_common_options(options, common_, "Print one JSON object"); }

  Status run() override {
    NIB_TRY(const SystemInfo info, system_info());
    const bool cuda_missing = common_.device == "cuda" && info.cuda_devices.empty();
    if (cuda_missing) return unsupported(fmt::format("no CUDA device: {} (--device cuda)", info.cuda_status));
    const int threads = common_.threads > 0 ? common_.threads : info.num_threads;
    const MachineLimits limits = measure_limits(threads, environment_value("isa").value_or(""));
    const std::vector<Check> checks{check_isa(info),       check_memory(info),    check_huge_pages(),
                                    check_cpu_quota(info), check_address_space(), check_cuda(info),
                                    check_line_editing()};
    return common_.json ? print_json(info, limits, threads, checks)
                        : print_text(info, limits, threads, checks);
  }

 private:
  static Status print_text(const SystemInfo& info, const MachineLimits& limits, int threads,
                           const std::vector<Check>& checks) {
    const auto or_none = [](double value, const char* unit) {
      return value > 0 ? fmt::format("{:.1f} {}", value, unit) : std::string("none");
    };
    std::string text = fmt::format("{}, {} threads\n\n", info.cpu, threads);
    text += fmt::format("measured: memory read {:.1f} GB/s, fp32 {:.1f} GFLOP/s, bf16 {}, int8 {}\n\n",
                        limits.read_gb_s, limits.fp32_gflops, or_none(limits.bf16_gflops, "GFLOP/s"),
                        or_none(limits.int8_gops, "GOP/s"));
    if (!info.cuda_devices.empty()) {
      const MachineLimits gpu = measure_gpu_limits();
      text += fmt::format("GPU: memory read {:.0f} GB/s, bf16 {:.0f} TFLOP/s\n\n", gpu.read_gb_s,
                          gpu.bf16_gflops / 1e3);
    }
    for (const Check& check : checks) {
      text += fmt::format("[{}] {:<23} {}\n", check.good ? "ok" : "!!", check.name, check.found);
      if (!check.good) text += fmt::format("     {}\n", check.hint);
    }
    return print(text);
  }

  static Status print_json(const SystemInfo& info, const MachineLimits& limits, int threads,
                           const std::vector<Check>& checks) {
    JsonWriter json;
    json.begin_object().field("cpu", info.cpu).field("isa", info.isa).field("isas", info.isas);
    json.field("threads", threads).field("memory_total", info.memory_total);
    json.field("memory_available", info.memory_available).field("cuda_devices", info.cuda_devices);
    json.field("cuda_status", info.cuda_status).key("limits").begin_object();
    json.field("read_gb_s", limits.read_gb_s).field("fp32_gflops", limits.fp32_gflops);
    json.field("bf16_gflops", limits.bf16_gflops).field("int8_gops", limits.int8_gops).end_object();
    json.key("checks").begin_array();
    for (const Check& check : checks) {
      json.begin_object().field("name", check.name).field("ok", check.good).field("found", check.found);
      json.field("hint", check.good ? "" : check.hint).end_object();
    }
    return print_line(json.end_array().end_object().text());
  }

  CommonOptions common_;
};

}  // namespace

std::unique_ptr<Command> make_doctor() { return std::make_unique<DoctorCommand>(); }

}  // namespace nibble::cli
