// nibble plan: would the model fit, what would be read per token, which kernels would run.

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/table.h"
#include "nibble/checkpoint.h"

namespace nibble::cli {

namespace {

class PlanCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    add_model_options(options, model_);
    add_max_num_seqs(options, model_);
    add_common_options(options, common_, "Print one JSON object");
  }

  Status run() override {
    NIB_TRY(const LlmOptions llm_options, resolve(model_, common_));
    NIB_TRY(const MemoryPlan plan, plan_model(llm_options));
    return common_.json ? print_json(plan) : print_text(plan, llm_options);
  }

 private:
  static Status print_text(const MemoryPlan& plan, const LlmOptions& options) {
    std::string text = fmt::format("{} on {}", model_name(options), plan.device);
    if (options.num_hidden_layers > 0) text += fmt::format(", only {} layers", options.num_hidden_layers);
    Table weights({{"weights"}, {"format"}, {"parameters", true}, {"packed", true}});
    for (const PlanRow& row : plan.weights) {
      weights.add({row.kind, row.format, std::to_string(row.num_parameters), format_bytes(row.packed_bytes)});
    }
    text += "\n\n" + weights.plain() + '\n';
    Table memory({{"memory"}, {"", true}});
    memory.add({"weights", format_bytes(plan.weight_bytes)});
    memory.add({fmt::format("cache, {} tokens of {} B", plan.max_model_len, plan.cache_bytes_per_token),
                format_bytes(plan.cache_bytes)});
    memory.add({"scratch", format_bytes(plan.scratch_bytes)});
    memory.add({"total", format_bytes(plan.total_bytes)});
    memory.add({"available", format_bytes(plan.available_bytes)});
    text += memory.plain();
    text += fmt::format("\n{}; {} read per decoded token (batch 1, empty context)\n",
                        plan.fits ? "fits" : "does not fit", format_bytes(plan.bytes_per_decode_token));
    for (const std::string& kernel : plan.kernels) text += fmt::format("kernel  {}\n", kernel);
    if (plan.graph_nodes > 0) text += describe_graph(plan);
    return print(text);
  }

  // Neighbouring layers of as many nodes in one piece.
  static std::string describe_graph(const MemoryPlan& plan) {
    std::string text = fmt::format("graph   {} nodes a decode step", plan.graph_nodes);
    std::int64_t outside = plan.graph_nodes;
    const std::vector<std::int64_t>& layers = plan.layer_graph_nodes;
    for (std::size_t begin = 0; begin < layers.size();) {
      std::size_t end = begin;
      while (end < layers.size() && layers[end] == layers[begin]) outside -= layers[end++];
      text += fmt::format("{} {} in {} {}", begin == 0 ? ":" : ",", layers[begin],
                          end - begin == 1 ? "layer" : "each of layers", begin);
      if (end - begin > 1) text += fmt::format("-{}", end - 1);
      begin = end;
    }
    return text + fmt::format(", {} besides\n", outside);
  }

  static Status print_json(const MemoryPlan& plan) {
    JsonWriter json;
    json.begin_object().field("device", plan.device).key("weights").begin_array();
    for (const PlanRow& row : plan.weights) {
      json.begin_object().field("kind", row.kind).field("format", row.format);
      json.field("num_parameters", row.num_parameters).field("packed_bytes", row.packed_bytes).end_object();
    }
    json.end_array().field("weight_bytes", plan.weight_bytes);
    json.field("cache_bytes_per_token", plan.cache_bytes_per_token)
        .field("max_model_len", plan.max_model_len);
    json.field("cache_bytes", plan.cache_bytes).field("scratch_bytes", plan.scratch_bytes);
    json.field("total_bytes", plan.total_bytes).field("available_bytes", plan.available_bytes);
    json.field("fits", plan.fits).field("bytes_per_decode_token", plan.bytes_per_decode_token);
    json.field("kernels", plan.kernels).field("graph_nodes", plan.graph_nodes);
    json.field("layer_graph_nodes", plan.layer_graph_nodes);
    return print_line(json.end_object().text());
  }

  ModelOptions model_;
  CommonOptions common_;
};

}  // namespace

std::unique_ptr<Command> make_plan() { return std::make_unique<PlanCommand>(); }

}  // namespace nibble::cli
