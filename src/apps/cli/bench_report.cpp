#include "cli/bench_report.h"

#include <fmt/format.h>

#include "cli/model_options.h"
#include "cli/progress.h"
#include "cli/table.h"

namespace nibble::cli {

namespace {

double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

// "CPU avx512": the description without the processor's name.
std::string backend(const BenchStamp& stamp) {
  return stamp.model.device.substr(0, stamp.model.device.find(" ("));
}

std::string parameter_count(std::int64_t count) {
  const auto number = static_cast<double>(count);
  return count >= 1'000'000'000 ? fmt::format("{:.2f} B", number / 1e9)
                                : fmt::format("{:.2f} M", number / 1e6);
}

std::string efficiency(const BenchResult& result) {
  if (result.test.kind == BenchKind::decode) {
    return fmt::format(
        "{}: {:.1f} MB per token, {:.2f} GB/s = {:.1f} % of {:.2f} GB/s read (before {:.2f}, after {:.2f})\n",
        result.test.name(), result.bytes_per_token() / 1e6, result.gb_per_second(),
        percent(result.gb_per_second(), result.read_limit_gb_s()), result.read_limit_gb_s(),
        result.before.read_gb_s, result.after.read_gb_s);
  }
  const Peak peak = arithmetic_peak(result);
  return fmt::format("{}: {:.1f} GFLOP/s = {:.1f} % of {:.1f} GFLOP/s {} (before {:.1f}, after {:.1f})\n",
                     result.test.name(), result.gflops(), percent(result.gflops(), peak.mean()), peak.mean(),
                     peak.name, peak.before, peak.after);
}

std::string markdown(const BenchStamp& stamp, const std::vector<BenchResult>& results) {
  Table table(
      {{"model"}, {"size", true}, {"params", true}, {"backend"}, {"threads", true}, {"test"}, {"t/s", true}});
  std::string notes;
  for (const BenchResult& result : results) {
    const Spread rate = spread(result.tokens_per_second());
    table.add({describe_model(stamp), format_bytes(stamp.model.weight_bytes),
               parameter_count(stamp.model.num_parameters), backend(stamp), std::to_string(stamp.threads),
               result.test.name(), fmt::format("{:.2f} ± {:.2f}", rate.mean, rate.sd)});
    notes += efficiency(result);
  }
  return fmt::format("{}\n{}build: {} {}, {}\n", table.markdown(), notes, stamp.version.version,
                     stamp.version.commit, stamp.system.cpu);
}

std::string csv(const BenchStamp& stamp, const std::vector<BenchResult>& results) {
  Table table({{"commit"},
               {"cpu"},
               {"isa"},
               {"threads"},
               {"model"},
               {"formats"},
               {"num_layers"},
               {"weight_bytes"},
               {"num_parameters"},
               {"test"},
               {"tokens"},
               {"depth"},
               {"batch"},
               {"repetitions"},
               {"tok_s"},
               {"tok_s_sd"},
               {"bytes_per_token"},
               {"gb_s"},
               {"limit_read_gb_s"},
               {"gflops"},
               {"peak"},
               {"peak_gflops"},
               {"percent_of_limit"}});
  for (const BenchResult& r : results) {
    const Spread rate = spread(r.tokens_per_second());
    const bool decode = r.test.kind == BenchKind::decode;
    const Peak peak = arithmetic_peak(r);
    const auto number = [](double value) { return fmt::format("{:.6g}", value); };
    const double share =
        decode ? percent(r.gb_per_second(), r.read_limit_gb_s()) : percent(r.gflops(), peak.mean());
    table.add({stamp.version.commit,
               stamp.system.cpu,
               stamp.isa,
               std::to_string(stamp.threads),
               stamp.model_name,
               stamp.model.formats,
               std::to_string(stamp.model.num_layers),
               std::to_string(stamp.model.weight_bytes),
               std::to_string(stamp.model.num_parameters),
               r.test.name(),
               std::to_string(r.test.tokens),
               std::to_string(r.test.depth),
               std::to_string(r.test.batch),
               std::to_string(r.seconds.size()),
               number(rate.mean),
               number(rate.sd),
               number(r.bytes_per_token()),
               decode ? number(r.gb_per_second()) : "",
               decode ? number(r.read_limit_gb_s()) : "",
               decode ? "" : number(r.gflops()),
               decode ? "" : peak.name,
               decode ? "" : number(peak.mean()),
               number(share)});
  }
  return table.csv();
}

void write_decode(JsonWriter& json, const BenchResult& result) {
  json.field("bytes_per_step", result.cost.bytes_read).field("bytes_per_token", result.bytes_per_token());
  json.field("gb_s", result.gb_per_second()).key("read_bandwidth_gb_s").begin_object();
  json.field("before", result.before.read_gb_s).field("after", result.after.read_gb_s);
  json.field("mean", result.read_limit_gb_s()).end_object();
  json.field("percent_of_read_bandwidth", percent(result.gb_per_second(), result.read_limit_gb_s()));
}

void write_prefill(JsonWriter& json, const BenchResult& result) {
  const Peak peak = arithmetic_peak(result);
  json.field("bytes_per_token", result.bytes_per_token());
  json.field("flops", result.cost.flops).field("gflops", result.gflops()).key("peak_gflops").begin_object();
  json.field("kind", peak.name).field("before", peak.before).field("after", peak.after);
  json.field("mean", peak.mean()).end_object();
  json.field("percent_of_peak", percent(result.gflops(), peak.mean()));
}

std::string json_object(const BenchStamp& stamp, const BenchResult& result) {
  const Spread rate = spread(result.tokens_per_second());
  JsonWriter json;
  json.begin_object();
  write_stamp(json, stamp);
  json.field("test", result.test.name())
      .field("tokens", result.test.tokens)
      .field("depth", result.test.depth);
  json.field("batch", result.test.batch).field("repetitions", result.seconds.size()).field("warm_up", 1);
  json.field("tok_s", rate.mean).field("tok_s_sd", rate.sd).field("seconds", result.seconds);
  if (result.test.kind == BenchKind::decode) {
    write_decode(json, result);
  } else {
    write_prefill(json, result);
  }
  return json.end_object().text();
}

}  // namespace

Result<BenchStamp> make_stamp(const Llm& llm, const LlmOptions& options,
                              const std::vector<std::string>& arguments) {
  BenchStamp stamp;
  NIB_TRY(stamp.system, system_info());
  stamp.version = version_info();
  stamp.model = llm.info();
  stamp.model_name = model_name(options);
  for (const std::string& word : arguments) stamp.flags += (stamp.flags.empty() ? "" : " ") + word;
  stamp.isa = options.isa.empty() ? stamp.system.isa : options.isa;
  stamp.threads = options.num_threads > 0 ? options.num_threads : stamp.system.num_threads;
  stamp.dummy_weights = options.dummy_weights;
  stamp.num_hidden_layers = options.num_hidden_layers;
  return stamp;
}

void write_stamp(JsonWriter& json, const BenchStamp& stamp) {
  json.field("commit", stamp.version.commit).field("version", stamp.version.version);
  json.field("compiler", stamp.version.compiler).field("flags", stamp.flags).field("cpu", stamp.system.cpu);
  json.field("isa", stamp.isa).field("threads", stamp.threads).field("device", stamp.model.device);
  json.field("model", stamp.model_name).field("model_type", stamp.model.model_type);
  json.field("formats", stamp.model.formats).field("dummy_weights", stamp.dummy_weights);
  json.field("num_layers", stamp.model.num_layers).field("shortened", stamp.num_hidden_layers > 0);
  json.field("notes", stamp.model.notes);
  json.field("num_parameters", stamp.model.num_parameters).field("weight_bytes", stamp.model.weight_bytes);
  json.field("load_s", stamp.model.load_s);
}

std::string describe_model(const BenchStamp& stamp) {
  std::string text = stamp.model_name;
  if (stamp.num_hidden_layers > 0) text += fmt::format(", {} layers", stamp.num_hidden_layers);
  return fmt::format("{}, {}{}", text, stamp.model.formats, stamp.dummy_weights ? " (dummy)" : "");
}

std::string report(const BenchStamp& stamp, const std::vector<BenchResult>& results,
                   const std::string& format) {
  if (format == "md") return markdown(stamp, results);
  if (format == "csv") return csv(stamp, results);
  const bool lines = format == "jsonl";
  std::string text = lines ? "" : "[";
  for (std::size_t i = 0; i < results.size(); ++i) {
    if (i > 0 && !lines) text += ",\n ";
    text += json_object(stamp, results[i]) + (lines ? "\n" : "");
  }
  return lines ? text : text + "]\n";
}

}  // namespace nibble::cli
