// nibble bench mla: latent attention by itself. Without --challenge, the attention of a decode step over
// lengths, batch sizes and heads; with it, a whole layer on the requests of the DeepSeek-R1 MLA challenge.

#include "cli/bench_mla.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "cli/command.h"
#include "cli/options.h"
#include "cli/signals.h"

namespace nibble::cli {

namespace {

constexpr std::int32_t kMaxLength = 1 << 20;
constexpr std::int32_t kMaxBatch = 4096;
constexpr std::int32_t kMaxRounds = 10000;

// DeepSeek-R1's layer.
MlaModuleConfig r1_shape() {
  return {.hidden_size = 7168,
          .num_heads = 128,
          .q_lora_rank = 1536,
          .kv_lora_rank = 512,
          .qk_nope_head_dim = 128,
          .qk_rope_head_dim = 64,
          .v_head_dim = 128,
          .yarn = YarnScaling{.factor = 40, .mscale = 1.0, .mscale_all_dim = 1.0}};
}

Result<MlaModuleConfig> read_shape(const std::filesystem::path& config) {
  NIB_TRY(const ShapeFile file, ShapeFile::read(config));
  MlaModuleConfig shape;
  NIB_TRY(shape.hidden_size, file.size("hidden_size"));
  NIB_TRY(shape.num_heads, file.size("num_attention_heads"));
  NIB_TRY(shape.kv_lora_rank, file.size("kv_lora_rank"));
  NIB_TRY(shape.qk_nope_head_dim, file.size("qk_nope_head_dim"));
  NIB_TRY(shape.qk_rope_head_dim, file.size("qk_rope_head_dim"));
  NIB_TRY(shape.v_head_dim, file.size("v_head_dim"));
  if (file.has("q_lora_rank")) {
    NIB_TRY(shape.q_lora_rank, file.size("q_lora_rank"));
  }
  shape.rope_theta = file.number("rope_theta", shape.rope_theta);
  if (file.has("rope_scaling.factor")) {
    YarnScaling yarn;
    yarn.factor = file.number("rope_scaling.factor", yarn.factor);
    yarn.beta_fast = file.number("rope_scaling.beta_fast", yarn.beta_fast);
    yarn.beta_slow = file.number("rope_scaling.beta_slow", yarn.beta_slow);
    yarn.mscale = file.number("rope_scaling.mscale", yarn.mscale);
    yarn.mscale_all_dim = file.number("rope_scaling.mscale_all_dim", yarn.mscale_all_dim);
    NIB_TRY(yarn.original_max_position_embeddings,
            file.size("rope_scaling.original_max_position_embeddings"));
    shape.yarn = yarn;
  }
  return shape;
}

class BenchMlaCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    options.heading("Benchmark");
    options.add_flag(
        "--challenge", challenge_,
        "A whole DeepSeek-R1 layer: 4 prompts of 64, 128, 256, 256 tokens on 512, 0, 0, 256; 16 decodes "
        "on 50 to 400, fed back; one at a time and in one batch");
    options.add_text("--schemes,--scheme", schemes_, "LIST", "Number formats of the layer (--challenge)");
    options.add_integer("--rounds", rounds_, 1, kMaxRounds, "Decode rounds (--challenge); 100, on a CPU 10");
    options.add_choice("--mla", mla_, {"auto", "naive", "absorb"},
                       "How prompts are attended to (--challenge); auto chooses for each");
    options.add_integers("--lengths", lengths_, 1,
                         "Tokens in the cache; 1024,4096,16384 (on a CPU 256,1024)");
    options.add_integers("--batch", batches_, 1, "Sequences; 1,16,128 (CPU 1,4)");
    options.add_integers("--heads", heads_, 1, "Heads; 128,64,16 (CPU 16)");
    options.add_text("--kv-cache-dtype,--cache-dtype", cache_dtypes_, "LIST",
                     "Cache entries: f32, bf16, fp8, fp8_e5m2");
    options.add_path("--config", config_,
                     "config.json with the sizes of the layer; DeepSeek-R1's if not given");
    options.add_integer("--repetitions,-r", options_.repetitions, 1, kMaxRounds,
                        "Timed runs, of which the median counts");
    options.add_choice("--output,-o", output_, {"md", "json"}, "Form of the result");
    add_common_options(options, common_, "The same as -o json");
  }

  Status run() override {
    const InterruptScope scope(nullptr);
    NIB_TRY(const std::shared_ptr<ModuleDevice> device, open_device(common_));
    const bool on_gpu = device->kind() == DeviceKind::cuda;
    options_.shape = r1_shape();
    if (!config_.empty()) {
      NIB_TRY(options_.shape, read_shape(config_));
    }
    options_.shape.mode = mla_ == "auto"    ? MlaMode::automatic
                          : mla_ == "naive" ? MlaMode::naive
                                            : MlaMode::absorb;
    options_.json = common_.json || output_ == "json";
    NIB_TRY(const ModuleStamp stamp, make_module_stamp(*device, common_, arguments()));
    if (challenge_) {
      const std::vector<std::string> schemes = split_list(schemes_);
      if (schemes.empty()) return bad_input("--schemes names no number format; give a list like bf16,mxfp4");
      if (rounds_ == 0) rounds_ = on_gpu ? 100 : 10;
      if (options_.repetitions == 0) options_.repetitions = on_gpu ? 7 : 2;
      return run_mla_challenge(device, common_, options_, schemes, rounds_, stamp);
    }
    if (options_.repetitions == 0) options_.repetitions = 15;
    NIB_TRY(const MlaTablePlan plan, make_plan(on_gpu));
    return run_mla_table(device, common_, options_, plan, stamp);
  }

 private:
  [[nodiscard]] Result<MlaTablePlan> make_plan(bool on_gpu) const {
    MlaTablePlan plan{
        .lengths = lengths_, .batches = batches_, .heads = heads_, .cache_dtypes = split_list(cache_dtypes_)};
    const auto fill = [&](std::vector<std::int32_t>& list, std::vector<std::int32_t> gpu,
                          std::vector<std::int32_t> cpu) {
      if (list.empty()) list = on_gpu ? std::move(gpu) : std::move(cpu);
    };
    fill(plan.lengths, {1024, 4096, 16384}, {256, 1024});
    fill(plan.batches, {1, 16, 128}, {1, 4});
    fill(plan.heads, {128, 64, 16}, {16});
    if (std::ranges::max(plan.lengths) > kMaxLength) return bad_input("--lengths goes up to 1048576");
    if (std::ranges::max(plan.batches) > kMaxBatch) return bad_input("--batch goes up to 4096");
    if (std::ranges::max(plan.heads) > kMaxBatch) return bad_input("--heads goes up to 4096");
    if (plan.cache_dtypes.empty())
      return bad_input("--kv-cache-dtype names no type; give a list like bf16,fp8");
    return plan;
  }

  CommonOptions common_;
  MlaBenchOptions options_;
  std::filesystem::path config_;
  bool challenge_ = false;
  std::string schemes_ = "bf16,fp8,mxfp4";
  std::string mla_ = "auto";
  std::int32_t rounds_ = 0;
  std::vector<std::int32_t> lengths_;
  std::vector<std::int32_t> batches_;
  std::vector<std::int32_t> heads_;
  std::string cache_dtypes_ = "bf16";
  std::string output_ = "md";
};

}  // namespace

std::unique_ptr<Command> make_bench_mla() { return std::make_unique<BenchMlaCommand>(); }

}  // namespace nibble::cli
