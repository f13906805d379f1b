// nibble bench linear: a model's linear layers by themselves at several numbers of tokens, against the time
// their weights take to be read or their products to be made, and against the definition.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cli/bench_module.h"
#include "cli/command.h"
#include "cli/files.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "nibble/modules/linear.h"

namespace nibble::cli {

namespace {

constexpr std::int32_t kMaxSize = 1 << 20;
// Layers take turns until the weights of a round are far larger than any cache.
constexpr double kColdBytes = 512e6;
// Tokens whose outputs are compared with the definition.
constexpr std::int32_t kCheckedTokens = 2;

struct Shape {
  std::string layer;  // "o_proj"; empty: given by --shapes
  std::int32_t out = 0;
  std::int32_t in = 0;
  bool gated = false;  // two matrices, SiLU, and the product of both

  [[nodiscard]] std::string size() const { return fmt::format("{}{} x {}", gated ? "2 x " : "", out, in); }
};

struct Row {
  Shape shape;
  std::int32_t tokens = 0;
  Timing timing;
};

// "7168x16384": out x in; "2x2048x7168": gated.
std::optional<Shape> parse_shape(const std::string& text) {
  std::vector<std::int32_t> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (;;) {
    std::int32_t number = 0;
    const auto [after, error] = std::from_chars(at, end, number);
    if (error != std::errc() || number < 1 || number > kMaxSize) return std::nullopt;
    numbers.push_back(number);
    if (after == end) break;
    if (*after != 'x') return std::nullopt;
    at = after + 1;
  }
  const bool gated = numbers.size() == 3 && numbers.front() == 2;
  if (numbers.size() != 2 && !gated) return std::nullopt;
  return Shape{.layer = "", .out = numbers[numbers.size() - 2], .in = numbers.back(), .gated = gated};
}

// The linear layers of a DeepSeek-V2 or V3 config; what the engine multiplies together is one.
Result<std::vector<Shape>> shapes_of(const ShapeFile& file) {
  NIB_TRY(const std::int32_t hidden, file.size("hidden_size"));
  NIB_TRY(const std::int32_t heads, file.size("num_attention_heads"));
  NIB_TRY(const std::int32_t rank, file.size("kv_lora_rank"));
  NIB_TRY(const std::int32_t nope, file.size("qk_nope_head_dim"));
  NIB_TRY(const std::int32_t rope, file.size("qk_rope_head_dim"));
  NIB_TRY(const std::int32_t value, file.size("v_head_dim"));
  NIB_TRY(const std::int32_t inner, file.size("intermediate_size"));
  const auto q_rank = static_cast<std::int32_t>(file.number("q_lora_rank", 0));
  const std::int32_t queries = heads * (nope + rope);
  std::vector<Shape> shapes;
  if (q_rank > 0) {
    shapes.push_back({"q_a, kv_a", q_rank + rank + rope, hidden});
    shapes.push_back({"q_b", queries, q_rank});
  } else {
    shapes.push_back({"q, kv_a", queries + rank + rope, hidden});
  }
  shapes.push_back({"o_proj", hidden, heads * value});
  shapes.push_back({"gate, up", inner, hidden, true});
  shapes.push_back({"down", hidden, inner});
  const double shared = file.number("n_shared_experts", 0) * file.number("moe_intermediate_size", 0);
  if (shared >= 1 && shared <= kMaxSize) {
    const auto width = static_cast<std::int32_t>(shared);
    shapes.push_back({"shared gate, up", width, hidden, true});
    shapes.push_back({"shared down", hidden, width});
  }
  for (const Shape& shape : shapes) {
    if (std::min(shape.out, shape.in) < 1 || std::max(shape.out, shape.in) > kMaxSize) {
      return bad_input(
          fmt::format("{} would be {}; sizes are from 1 to {}", shape.layer, shape.size(), kMaxSize));
    }
  }
  return shapes;
}

// DeepSeek-V3's attention and shared experts on a GPU, V2-Lite's on a CPU.
std::vector<Shape> usual_shapes(bool on_gpu) {
  if (!on_gpu) {
    return {{"q, kv_a", 3648, 2048},
            {"o_proj", 2048, 2048},
            {"shared gate, up", 2816, 2048, true},
            {"shared down", 2048, 2816}};
  }
  return {{"q_a, kv_a", 2112, 7168},
          {"q_b", 24576, 1536},
          {"o_proj", 7168, 16384},
          {"shared gate, up", 2048, 7168, true},
          {"shared down", 7168, 2048}};
}

class BenchLinearCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    options.heading("Shape");
    options.add_path("--config", config_, "config.json: the linear layers of that model");
    options.add_text("--shapes", shape_list_, "LIST",
                     "Outputs x inputs, comma-separated: 7168x16384; 2x2048x7168 is gate and up with SiLU");
    options.add_text("--scheme", scheme_, "SCHEME", "Number format: mxfp4, nvfp4, fp8, fp8_w8a8, bf16, ...");
    options.heading("Benchmark");
    turns_.define(options, "Numbers of tokens; 1,2,8,16,64,256,1024,4096 (CPU 1,8,64)");
  }

  Status run() override {
    const InterruptScope scope(nullptr);
    NIB_TRY(device_, open_device(turns_.common));
    limits_.on_gpu = device_->kind() == DeviceKind::cuda;
    NIB_TRY(const std::vector<Shape> shapes, chosen_shapes());
    if (turns_.tokens.empty()) {
      turns_.tokens = limits_.on_gpu ? std::vector<std::int32_t>{1, 2, 8, 16, 64, 256, 1024, 4096}
                                     : std::vector<std::int32_t>{1, 8, 64};
    }
    if (std::ranges::max(turns_.tokens) > kMaxSize) return bad_input("--tokens goes up to 1048576");
    measure_now(*device_, turns_.common, limits_.before);
    std::vector<Row> rows;
    {
      Progress progress(turns_.common.progress);
      for (const Shape& shape : shapes) NIB_TRY_STATUS(measure(shape, rows, shapes.size(), progress));
    }
    measure_now(*device_, turns_.common, limits_.after);
    NIB_TRY(const ModuleStamp stamp, make_module_stamp(*device_, turns_.common, arguments()));
    NIB_TRY_STATUS(print(turns_.json() ? as_json(stamp, rows) : as_text(stamp, rows)));
    double worst = 0;
    for (const Row& row : rows) worst = std::max(worst, row.timing.error);
    return check_errors(worst, error_bound(scheme_));
  }

 private:
  Result<std::vector<Shape>> chosen_shapes() const {
    if (!shape_list_.empty() && !config_.empty()) return bad_input("give --shapes or --config, not both");
    if (!config_.empty()) {
      NIB_TRY(const ShapeFile file, ShapeFile::read(config_));
      return shapes_of(file);
    }
    if (shape_list_.empty()) return usual_shapes(limits_.on_gpu);
    std::vector<Shape> shapes;
    for (const std::string& text : split_list(shape_list_)) {
      const std::optional<Shape> shape = parse_shape(text);
      if (!shape) {
        return bad_input(
            fmt::format("--shapes: {} is not OUTxIN or 2xOUTxIN, each from 1 to {}", text, kMaxSize));
      }
      shapes.push_back(*shape);
    }
    if (shapes.empty()) return bad_input("--shapes names no shape");
    return shapes;
  }

  // All numbers of tokens for one shape.
  Status measure(const Shape& shape, std::vector<Row>& rows, std::size_t num_shapes, Progress& progress) {
    NIB_TRY_STATUS(make_layers(shape));
    const std::int32_t most = std::ranges::max(turns_.tokens);
    const auto width = static_cast<std::size_t>(shape.in);
    const std::vector<float> x = random_normal(static_cast<std::size_t>(most) * width, 17);
    NIB_TRY(const DeviceArray x_there, copy_to(*device_, x));
    NIB_TRY(const DeviceArray y_there,
            device_->allocate(static_cast<std::size_t>(most) * static_cast<std::size_t>(shape.out) *
                              sizeof(float)));
    NIB_TRY(const std::vector<double> want, modules_.front()->reference(checked_inputs(x, width)));
    for (const std::int32_t tokens : turns_.tokens) {
      progress.callback()("bench linear", rows.size(), num_shapes * turns_.tokens.size(), "cases");
      NIB_TRY(const Timing timing, time(shape, tokens, x_there, y_there));
      rows.push_back({.shape = shape, .tokens = tokens, .timing = timing});
      NIB_TRY(rows.back().timing.error, compare(shape, tokens, x_there, y_there, want));
      if (interrupted()) return interrupted_error();
    }
    modules_.clear();
    return {};
  }

  Status make_layers(const Shape& shape) {
    const LinearModuleConfig config{.in_features = shape.in,
                                    .out_features = shape.out,
                                    .gated = shape.gated,
                                    .scheme = scheme_,
                                    .max_tokens = std::ranges::max(turns_.tokens)};
    modules_.clear();
    const auto create = [&](std::uint64_t seed) { return LinearModule::create_dummy(device_, config, seed); };
    NIB_TRY(modules_, make_turns(create, turns_.layers, kColdBytes, kMaxTurns));
    return {};
  }

  // A round is one recording: what is timed are the layers, one after the other, as in a model.
  Result<Timing> time(const Shape& shape, std::int32_t tokens, const DeviceArray& x, const DeviceArray& y) {
    const auto round = [&]() -> Status {
      for (const auto& layer : modules_) NIB_TRY_STATUS(layer->forward(tokens, x.f32(), y.f32()));
      return {};
    };
    Timing timing;
    NIB_TRY(const double seconds, median_seconds(*device_, turns_.repetitions, [&] {
              return device_->run_recorded(static_cast<std::uint64_t>(tokens), round);
            }));
    device_->forget_recorded();
    timing.seconds = seconds / static_cast<double>(modules_.size());
    timing.work.bytes = static_cast<double>(modules_.front()->weight_bytes());
    timing.work.flops = 2.0 * tokens * shape.in * shape.out * (shape.gated ? 2 : 1);
    timing.work.is_fp8 = scheme_.ends_with("a8");
    return timing;
  }

  static std::vector<float> checked_inputs(const std::vector<float>& x, std::size_t width) {
    return {x.begin(), x.begin() + static_cast<std::ptrdiff_t>(std::min(x.size(), kCheckedTokens * width))};
  }

  // The first layer's outputs of the first tokens, against the definition.
  Result<double> compare(const Shape& shape, std::int32_t tokens, const DeviceArray& x, const DeviceArray& y,
                         const std::vector<double>& want) {
    const auto width = static_cast<std::size_t>(shape.out);
    const std::size_t checked = std::min(want.size(), static_cast<std::size_t>(tokens) * width);
    NIB_TRY_STATUS(modules_.front()->forward(tokens, x.f32(), y.f32()));
    NIB_TRY(const std::vector<float> got, copy_from(*device_, y.f32(), checked));
    return row_error(got, std::span(want).first(checked), width);
  }

  [[nodiscard]] std::string as_text(const ModuleStamp& stamp, const std::vector<Row>& rows) const {
    std::vector<Column> columns{{"layer"}, {"outputs x inputs", true}, {"tokens", true}};
    std::ranges::copy(timing_columns(), std::back_inserter(columns));
    Table table(columns);
    for (const Row& row : rows) {
      std::vector<std::string> cells{row.shape.layer, row.shape.size(), std::to_string(row.tokens)};
      std::ranges::copy(timing_cells(row.timing, limits_), std::back_inserter(cells));
      table.add(cells);
    }
    return fmt::format(
        "linear layers, {}\n\n{}\n{}error: largest difference from the float64 reference in units of the "
        "row's "
        "rms, bound {}\n",
        scheme_, table.markdown(), describe(stamp, "bench linear", limits_), error_bound(scheme_));
  }

  [[nodiscard]] std::string as_json(const ModuleStamp& stamp, const std::vector<Row>& rows) const {
    JsonWriter json;
    json.begin_object();
    write_stamp(json, stamp);
    json.field("scheme", scheme_).field("repetitions", turns_.repetitions);
    json.field("error_bound", error_bound(scheme_));
    write_limits(json, limits_);
    json.key("results").begin_array();
    for (const Row& row : rows) {
      json.begin_object().field("layer", row.shape.layer).field("out_features", row.shape.out);
      json.field("in_features", row.shape.in).field("gated", row.shape.gated).field("tokens", row.tokens);
      write_timing(json, row.timing, limits_);
      json.end_object();
    }
    return json.end_array().end_object().text() + "\n";
  }

  TurnOptions turns_;
  std::filesystem::path config_;
  std::string shape_list_;
  std::string scheme_ = "mxfp4";

  std::shared_ptr<ModuleDevice> device_;
  Limits limits_;
  std::vector<std::unique_ptr<LinearModule>> modules_;
};

}  // namespace

std::unique_ptr<Command> make_bench_linear() { return std::make_unique<BenchLinearCommand>(); }

}  // namespace nibble::cli
