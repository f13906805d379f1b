// Repacking checkpoint rows into panels (layout.h).
//
// Every format stores one 32-bit word of each row per 64-byte step, so packing is a transposition of
// 16 rows of words followed by a fixed shuffle inside the step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/thread_pool.h"
#include "kernels/cpu/layout.h"
#include "quant/matrix_view.h"

namespace nibble::kernels::cpu {

// What happens to a step after the transposition of its 16 words (layout.h).
enum class StepShuffle : std::uint8_t {
  keep,           // f32, bf16
  split_words,    // f16, fp8: the low words of all rows, then their high words
  split_nibbles,  // fp4: each word's low nibbles in its low half, its high nibbles in its high half
  split_bytes,    // fp4 scales: byte 0 of all rows, then byte 1, 2, 3
};

// What a whole panel is packed from: kPanelRows rows of row_bytes each.
struct PanelSource {
  const std::byte* rows = nullptr;
  std::int64_t row_bytes = 0;
};

// Packs the first steps of a panel, as many as whole vectors cover, and returns how many those were.
// What one instruction set supplies (Tier::pack_panel); the rest of the steps and parts of panels are
// left to scalar code.
using PackPanel = std::int64_t (*)(StepShuffle shuffle, const PanelSource& source, std::byte* panel);

// Device::pack_rows. pack_panel may be null.
void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
               std::int64_t src_row, std::int64_t rows, PackPanel pack_panel);

// The word (in checkpoint order) that lane `lane` holds in the step at `step`.
std::uint32_t unpack_step(quant::WeightFormat format, const std::byte* step, std::int64_t lane);

// Deterministic pseudo-random weights of standard deviation about 1 / sqrt(k).
void fill_dummy(Weight& weight, std::uint64_t seed, ThreadPool& threads);

}  // namespace nibble::kernels::cpu
