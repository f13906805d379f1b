// Routing: scores, choice among the best groups, weights (DeepSeek-V2 2.2, V3 2.1.2).
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/ref/ops.h"
#include "kernels/ref/scalar.h"

namespace nibble::kernels::ref {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

void softmax_scores(const float* logits, std::int64_t count, float* scores) {
  const float top = *std::max_element(logits, logits + count);
  float sum = 0.0F;
  for (std::int64_t e = 0; e < count; ++e) {
    scores[e] = std::exp(logits[e] - top);
    sum += scores[e];
  }
  for (std::int64_t e = 0; e < count; ++e) scores[e] /= sum;
}

// Marks the `count` largest values with 1, ties going to the lower index; the others with 0.
void mark_largest(const float* values, std::int64_t num_values, std::int64_t count, float* chosen) {
  std::fill_n(chosen, num_values, 0.0F);
  for (std::int64_t pick = 0; pick < count; ++pick) {
    std::int64_t best = -1;
    for (std::int64_t i = 0; i < num_values; ++i) {
      if (chosen[i] == 0.0F && (best < 0 || values[i] > values[best])) best = i;
    }
    chosen[best] = 1.0F;
  }
}

float group_score(GroupScore kind, const float* choice, std::int64_t size) {
  float first = kMasked;
  float second = kMasked;
  for (std::int64_t i = 0; i < size; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return kind == GroupScore::max || size == 1 ? first : first + second;
}

// Working memory of one token; all arrays have num_experts floats (there are no more groups than that).
struct TokenScratch {
  TokenScratch(float* data, std::int64_t num_experts)
      : scores(data),
        choice(data + num_experts),
        chosen(data + 2 * num_experts),
        group_scores(data + 3 * num_experts),
        group_chosen(data + 4 * num_experts) {}
  static constexpr std::int64_t kArrays = 5;

  float* scores;
  float* choice;  // scores plus correction bias
  float* chosen;
  float* group_scores;
  float* group_chosen;
};

// Takes the experts outside the topk_group best groups out of the choice.
void mask_groups(const TopkGateArgs& args, std::int64_t num_experts, const TokenScratch& t) {
  const std::int64_t size = num_experts / args.n_group;
  for (std::int64_t g = 0; g < args.n_group; ++g) {
    t.group_scores[g] = group_score(args.group_score, t.choice + g * size, size);
  }
  mark_largest(t.group_scores, args.n_group, args.topk_group, t.group_chosen);
  for (std::int64_t g = 0; g < args.n_group; ++g) {
    if (t.group_chosen[g] == 0.0F) std::fill_n(t.choice + g * size, size, kMasked);
  }
}

void write_chosen(const TopkGateArgs& args, std::int64_t num_experts, const TokenScratch& t,
                  std::int64_t token) {
  std::int32_t* ids = args.topk_ids + token * args.topk;
  float* weights = args.topk_weights + token * args.topk;
  std::int64_t slot = 0;
  float sum = 0.0F;
  for (std::int64_t e = 0; e < num_experts; ++e) {
    if (t.chosen[e] == 0.0F) continue;
    ids[slot] = static_cast<std::int32_t>(e);
    weights[slot] = t.scores[e];
    sum += t.scores[e];
    ++slot;
  }
  for (std::int64_t i = 0; i < args.topk; ++i) {
    if (args.norm_topk_prob) weights[i] /= sum + 1e-20F;
    weights[i] *= args.routed_scaling_factor;
  }
}

void gate_token(const TopkGateArgs& args, std::int64_t token, const TokenScratch& t) {
  const std::int64_t num_experts = args.logits.dim(1);
  const float* logits = row_of(args.logits, token);
  if (args.scoring == ScoringFunc::softmax) {
    softmax_scores(logits, num_experts, t.scores);
  } else {
    for (std::int64_t e = 0; e < num_experts; ++e) t.scores[e] = sigmoid(logits[e]);
  }
  for (std::int64_t e = 0; e < num_experts; ++e) {
    t.choice[e] = args.correction_bias == nullptr ? t.scores[e] : t.scores[e] + args.correction_bias[e];
  }
  if (args.n_group > 1) mask_groups(args, num_experts, t);
  mark_largest(t.choice, num_experts, args.topk, t.chosen);
  write_chosen(args, num_experts, t, token);
}

}  // namespace

void topk_gate(Exec& exec, const TopkGateArgs& args) {
  if (args.gate != nullptr) {
    linear(exec, {.x = args.x, .w = *args.gate, .y = args.logits, .precision = Precision::exact});
  }
  const std::int64_t num_experts = args.logits.dim(1);
  NIB_CHECK(args.topk >= 1 && args.topk <= num_experts, "top {} of {} experts", args.topk, num_experts);
  NIB_CHECK(args.n_group >= 1 && num_experts % args.n_group == 0, "{} experts in {} groups", num_experts,
            args.n_group);
  NIB_CHECK(args.n_group == 1 || (args.topk_group >= 1 && args.topk_group <= args.n_group),
            "top {} of {} groups", args.topk_group, args.n_group);
  const ThreadFloats scratch(exec, TokenScratch::kArrays * num_experts);
  exec.threads().parallel_for(args.logits.dim(0), [&](std::int64_t token, int thread) {
    gate_token(args, token, TokenScratch(scratch.of(thread), num_experts));
  });
}

}  // namespace nibble::kernels::ref
