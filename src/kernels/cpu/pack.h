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

void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
               std::int64_t src_row, std::int64_t rows);

// The word (in checkpoint order) that lane `lane` holds in the step at `step`.
std::uint32_t unpack_step(quant::WeightFormat format, const std::byte* step, std::int64_t lane);

// Deterministic pseudo-random weights of standard deviation about 1 / sqrt(k).
void fill_dummy(Weight& weight, std::uint64_t seed, ThreadPool& threads);

}  // namespace nibble::kernels::cpu
