// Activations on their way into the products of prefill.cu and prefill_fp8.cu: panels [panel of k][m_pad] of
// 128 bytes a token, as wgmma reads them (hopper/wgmma.cuh).
#pragma once

#include "kernels/cuda/linear/product.h"

struct uint4;

namespace nibble::kernels::cuda {

// Rounded to bf16 (through FP8, where p.fp8_inputs; not with act-order then), 64 inputs a panel, as many
// panels as p.w has blocks; tokens past p.m are zero.
void launch_round_inputs(const Product& p, int m_pad, uint4* panels, const Launch& launch);

// Quantised to E4M3, 128 inputs a panel, each with a float32 scale in scales[panel][m_pad]: of 16 tokens,
// first those of tokens 0, 1, 8, 9, then 2, 3, 10, 11, and so on, as one lane needs them.
//
// Of the 16 inputs of a k16 step, byte 4 t + i is input 2 t + {0, 1, 8, 9}[i]: an FP8 operand holds four
// bytes a register where the packed layout has pairs.
//
// A scale is the largest magnitude / 448, quantize_activation's. Inputs that have gone through it, or have
// powers of two for scales, come out as exactly what they were: of the scale's neighbours, and of the next
// power of two, the first that gives back all 128 inputs is taken.
void launch_quantize_inputs(const Product& p, int m_pad, uint4* panels, float* scales, const Launch& launch);

}  // namespace nibble::kernels::cuda
