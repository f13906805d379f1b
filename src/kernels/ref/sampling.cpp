// Sampling: one row of logits to one token.
#include "kernels/sampling.h"

#include <algorithm>
#include <span>

#include "core/check.h"
#include "kernels/ref/ops.h"

namespace nibble::kernels::ref {
namespace {

using namespace sampling;

// Below this many candidates sorting is cheaper than selecting on.
constexpr std::size_t kSortedAtOnce = 64;

// A token that can be drawn.
struct Candidate {
  std::uint64_t weight;
  std::uint32_t key;
  std::int32_t id;
};

// The more probable first; of equal ones the lower id. By logit, because weights are rounded.
constexpr auto kByKey = [](const Candidate& a, const Candidate& b) {
  return a.key != b.key ? a.key < b.key : a.id < b.id;
};

std::uint64_t mass_of(std::span<const Candidate> candidates) {
  std::uint64_t sum = 0;
  for (const Candidate& c : candidates) sum += c.weight;
  return sum;
}

bool all_finite(std::span<const float> logits) {
  // Written without a branch so that it becomes vector code.
  bool good = true;
  for (const float logit : logits) good &= is_finite(logit);
  return good;
}

// Selecting leaves an order of the standard library's choosing.
std::span<Candidate> keep_top_k(std::span<Candidate> all, std::size_t k) {
  if (k >= all.size()) return all;
  std::nth_element(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(k), all.end(), kByKey);
  return all.first(k);
}

std::span<Candidate> keep_top_p(std::span<Candidate> all, float top_p) {
  const std::uint64_t wanted = wanted_mass(mass_of(all), top_p);
  // The run ends in `rest`: halve that, as in quickselect, but by mass instead of by rank.
  std::span<Candidate> rest = all;
  std::size_t kept = 0;    // those before `rest`, each at least as probable as all in it
  std::uint64_t mass = 0;  // of those
  while (rest.size() > kSortedAtOnce) {
    const std::size_t half = rest.size() / 2;
    std::nth_element(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(half), rest.end(), kByKey);
    const std::uint64_t half_mass = mass_of(rest.first(half));
    if (mass + half_mass >= wanted) {
      rest = rest.first(half);
    } else {
      rest = rest.subspan(half);
      kept += half;
      mass += half_mass;
    }
  }
  std::sort(rest.begin(), rest.end(), kByKey);
  for (const Candidate& c : rest) {
    if (mass >= wanted) break;
    mass += c.weight;
    ++kept;
  }
  return all.first(kept);
}

std::int32_t draw(std::span<Candidate> kept, const SampleRow& row) {
  const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  if (!std::is_sorted(kept.begin(), kept.end(), by_id)) std::sort(kept.begin(), kept.end(), by_id);
  const std::uint64_t target = high_product(philox_bits(row.seed, row.index), mass_of(kept));
  std::uint64_t sum = 0;
  for (const Candidate& c : kept) {
    sum += c.weight;
    if (sum > target) return c.id;
  }
  NIB_CHECK(false, "a mass of {} was drawn, there is {}", target, sum);
}

// `candidates` has room for all of them.
std::int32_t sample_row(std::span<float> logits, const SampleRow& row, const TokenCount* history,
                        Candidate* candidates) {
  if (!all_finite(logits)) return kNotFinite;
  for (std::int32_t i = row.history_begin; i < row.history_end; ++i) {
    float& logit = logits[static_cast<std::size_t>(history[i].id)];
    logit = penalize(logit, row, history[i].generated);
  }
  // max_element keeps the first, that is the lowest id, of equal values.
  const auto best = std::max_element(logits.begin(), logits.end());
  if (row.temperature == 0 || row.top_k == 1) return static_cast<std::int32_t>(best - logits.begin());

  const float scale = exponent_scale(row.temperature);
  std::size_t num_candidates = 0;
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const std::uint64_t weight = weight_of(logits[id], *best, scale);
    if (weight == 0) continue;
    candidates[num_candidates++] = {weight, key_of(logits[id]), static_cast<std::int32_t>(id)};
  }
  std::span<Candidate> kept(candidates, num_candidates);
  if (row.top_k > 0) kept = keep_top_k(kept, static_cast<std::size_t>(row.top_k));
  if (row.top_p < 1) kept = keep_top_p(kept, row.top_p);
  if (row.min_p > 0) {
    const auto is_unlikely = [wanted = wanted_weight(row.min_p)](const Candidate& c) {
      return c.weight < wanted;
    };
    // The most probable token has the full weight and is never dropped.
    kept = {kept.begin(), std::remove_if(kept.begin(), kept.end(), is_unlikely)};
  }
  return draw(kept, row);
}

}  // namespace

void sample(Exec& exec, const SampleArgs& a) {
  const std::int64_t vocabulary = a.logits.dim(1);
  NIB_CHECK(vocabulary >= 1 && vocabulary <= kMaxVocabulary, "a vocabulary of {}", vocabulary);
  const auto num_rows = a.logits.dim(0);
  const auto num_buffers = static_cast<std::size_t>(num_rows == 1 ? 1 : exec.threads().num_threads());
  const auto size = static_cast<std::size_t>(vocabulary);
  auto* const candidates = reinterpret_cast<Candidate*>(exec.scratch(num_buffers * size * sizeof(Candidate)));
  const auto one = [&](std::int64_t i, int thread) {
    const std::span<float> logits(a.logits.f32() + i * a.logits.stride[0], size);
    a.ids[i] = sample_row(logits, a.rows[i], a.history, candidates + static_cast<std::size_t>(thread) * size);
  };
  if (num_rows == 1) {
    one(0, 0);
  } else {
    exec.threads().parallel_for(num_rows, one);
  }
}

}  // namespace nibble::kernels::ref
