// Transposing whole panels of codes from rows to steps (layout.h), written once over a tier's step type.
//
// A step type P holds one or more vector registers with one 32-bit word of each of the 16 rows:
//   P::kSteps                     steps transposed together, which take kSteps words of every row
//   P::transpose(rows, stride, p) reads those words and sets p[0 .. kSteps)
//   P::store(p, to)               writes the 64 bytes as they are
//   P::keep, split_words, split_nibbles, split_bytes(p)  the StepShuffles
#pragma once

#include "kernels/cpu/pack.h"

namespace nibble::kernels::cpu::generic {

template <class P, P (*kShuffle)(P)>
std::int64_t pack_steps(const PanelSource& source, std::byte* panel) {
  const std::int64_t whole = source.row_bytes / 4 / P::kSteps * P::kSteps;
  for (std::int64_t s = 0; s < whole; s += P::kSteps) {
    // The rows of the next panel follow these. The processor does not foresee 16 rows read side by side,
    // and a prefetch beyond the end of the file is ignored.
    const std::byte* next = source.rows + source.row_bytes * kPanelRows + s * kStepBytes;
#pragma GCC unroll 16
    for (int i = 0; i < P::kSteps; ++i) __builtin_prefetch(next + i * kStepBytes, 0, 2);
    P steps[P::kSteps];
    P::transpose(source.rows + s * 4, source.row_bytes, steps);
#pragma GCC unroll 16
    for (int i = 0; i < P::kSteps; ++i) P::store(kShuffle(steps[i]), panel + (s + i) * kStepBytes);
  }
  return whole;
}

template <class P>
std::int64_t pack_panel(StepShuffle shuffle, const PanelSource& source, std::byte* panel) {
  switch (shuffle) {
    case StepShuffle::keep: return pack_steps<P, P::keep>(source, panel);
    case StepShuffle::split_words: return pack_steps<P, P::split_words>(source, panel);
    case StepShuffle::split_nibbles: return pack_steps<P, P::split_nibbles>(source, panel);
    case StepShuffle::split_bytes: return pack_steps<P, P::split_bytes>(source, panel);
  }
  return 0;
}

}  // namespace nibble::kernels::cpu::generic
