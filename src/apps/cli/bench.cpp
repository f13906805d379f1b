// nibble bench decode and nibble bench prefill.

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "cli/bench_measure.h"
#include "cli/bench_report.h"
#include "cli/command.h"
#include "cli/files.h"
#include "cli/model_options.h"
#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"

namespace nibble::cli {

namespace {

constexpr std::int32_t kMaxRepetitions = 10000;
constexpr std::int32_t kMaxTokens = 1 << 24;
constexpr std::int32_t kMaxBatch = 4096;

class BenchCommand final : public Command {
 public:
  explicit BenchCommand(BenchKind kind) : kind_(kind), tokens_{kind == BenchKind::decode ? 128 : 512} {}

  void define(OptionSet& options) override {
    add_model_options(options, model_);
    options.heading("Benchmark");
    if (kind_ == BenchKind::decode) {
      options.add_integers("--tokens,-n", tokens_, 1, "Tokens to generate");
    } else {
      options.add_integers("--tokens,-p", tokens_, 1, "Tokens of the prompt");
    }
    options.add_integers("--depth", depths_, 0, "Tokens already in the context");
    options.add_integers("--batch", batches_, 1, "Sequences at a time");
    options.add_integer("--repetitions,-r", repetitions_, 1, kMaxRepetitions,
                        "Timed runs, after one that warms up");
    options.add_choice("--output,-o", output_, {"md", "csv", "json", "jsonl"}, "Form of the result");
    add_common_options(options, common_, "The same as -o json");
  }

  Status run() override {
    NIB_TRY(LlmOptions llm_options, resolve(model_, common_));
    NIB_TRY(BenchPlan plan, make_plan());
    for (const BenchTest& test : plan.tests) {
      llm_options.max_num_seqs = std::max(llm_options.max_num_seqs, test.batch);
      // A context given by the user stands, even if it turns out too short.
      if (model_.llm.max_model_len == 0) {
        llm_options.max_model_len = std::max(llm_options.max_model_len, test.context());
      }
    }
    NIB_TRY(const std::unique_ptr<Llm> llm, load_model(llm_options, common_));
    NIB_TRY(const BenchStamp stamp, make_stamp(*llm, llm_options, arguments()));
    const bool on_gpu = stamp.model.device.starts_with("CUDA");
    plan.measure = [&, on_gpu] {
      return on_gpu ? measure_gpu_limits() : measure_limits(stamp.threads, llm_options.isa);
    };
    NIB_TRY(const std::vector<BenchResult> results, measure(*llm, plan));
    return print(report(stamp, results, common_.json ? "json" : output_));
  }

 private:
  [[nodiscard]] Result<BenchPlan> make_plan() const {
    BenchPlan plan;
    plan.repetitions = repetitions_;
    for (const std::int32_t depth : depths_) {
      for (const std::int32_t tokens : tokens_) {
        if (depth > kMaxTokens || tokens > kMaxTokens)
          return bad_input("--tokens and --depth go up to 16777216");
        for (const std::int32_t batch : batches_) {
          if (batch > kMaxBatch) return bad_input("--batch goes up to 4096");
          plan.tests.push_back({kind_, tokens, depth, batch});
        }
      }
    }
    return plan;
  }

  Result<std::vector<BenchResult>> measure(Llm& llm, const BenchPlan& plan) const {
    const InterruptScope scope(&llm);
    Progress progress(common_.progress);
    return run_bench(llm, plan, progress.callback());
  }

  BenchKind kind_;
  ModelOptions model_;
  CommonOptions common_;
  std::vector<std::int32_t> tokens_;
  std::vector<std::int32_t> depths_{0};
  std::vector<std::int32_t> batches_{1};
  std::int32_t repetitions_ = 5;
  std::string output_ = "md";
};

}  // namespace

std::unique_ptr<Command> make_bench_decode() { return std::make_unique<BenchCommand>(BenchKind::decode); }
std::unique_ptr<Command> make_bench_prefill() { return std::make_unique<BenchCommand>(BenchKind::prefill); }

}  // namespace nibble::cli
