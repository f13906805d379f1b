// How the work of an absorbed-attention launch is divided among the blocks, found on the device from the
// lengths alone: equal batches give equal schedules.
//
// A unit is one group of query tokens of one sequence that share an MMA tile of 64 rows (64 / heads tokens;
// one token where there are more heads), over tiles of 64 cache entries. All units are laid end to end on
// a line, each with kUnitCost positions for its start and one for each tile of its sequence; every part (a
// block, or the blocks of one token's head groups) takes a stretch of that line. Where all units are equal
// the cuts are placed so that each is split evenly or not at all.
#pragma once

#include <climits>
#include <cstdint>

#include "kernels/cuda/attention/mla_fast.h"

namespace nibble::kernels::cuda {

constexpr int kUnitCost = 1;

// A stretch of one unit that one part works on.
struct Piece {
  int seq;
  int first_row;    // query row of its first token, counted from the launch's first
  int num_tokens;   // query tokens
  int num_visible;  // entries the first token sees; each later one sees one more
  int tile_begin;
  int tile_end;
  int num_tiles;     // of the whole unit
  int unit_start;    // position of the unit
  bool starts_unit;  // tile_begin is 0

  __device__ bool whole() const { return starts_unit && tile_end == num_tiles; }
  // Entries the last token sees.
  __device__ int length() const { return num_visible + num_tokens - 1; }
};

// What a block knows of the batch, in shared memory.
struct ScheduleMemory {
  int length[kMlaMaxSeqs];
  int row[kMlaMaxSeqs + 1];     // first query row, counted from the launch's first
  int prefix[kMlaMaxSeqs + 1];  // first position
  int total;                    // positions
  int num_parts;
  int share;  // positions of a part, one more for the first `remainder` ones
  int remainder;
  int snap;            // a cut this near to a unit's end is moved there
  int cost;            // of every unit, where they are equal
  int parts_per_unit;  // above 0: units are equal and split evenly
  int units_per_part;  // above 0: units are equal and whole
};

class Schedule {
 public:
  // All threads of the block call it; ends with the block synchronised.
  __device__ void build(const MlaFast& launch, int num_parts, ScheduleMemory& memory) {
    launch_ = &launch;
    memory_ = &memory;
    const int num_seqs = launch.base.num_seqs;
    const int first = launch.base.cu_seqlens_q[0];
    for (int s = static_cast<int>(threadIdx.x); s < num_seqs; s += static_cast<int>(blockDim.x)) {
      memory.length[s] = launch.base.seq_lens[s];
      memory.row[s + 1] = launch.base.cu_seqlens_q[s + 1] - first;
    }
    __syncthreads();
    if (threadIdx.x < 32) scan(num_seqs, num_parts);
    __syncthreads();
  }

  __device__ int num_parts() const { return memory_->num_parts; }

  // The position where part p begins; the next part's is its end.
  __device__ int cut(int p) const {
    if (p >= memory_->num_parts) return memory_->total;
    if (memory_->parts_per_unit > 0) {
      const int within = p % memory_->parts_per_unit * (memory_->cost - kUnitCost) / memory_->parts_per_unit;
      return p / memory_->parts_per_unit * memory_->cost + (within > 0 ? kUnitCost + within : 0);
    }
    if (memory_->units_per_part > 0) return min(p * memory_->units_per_part * memory_->cost, memory_->total);
    const int at = p * memory_->share + min(p, memory_->remainder);
    const int s = seq_at(at);
    const int cost = unit_cost(s);
    const int start = memory_->prefix[s] + (at - memory_->prefix[s]) / cost * cost;
    const int tile = at - start - kUnitCost;
    if (tile <= memory_->snap) return start;
    return tile >= cost - kUnitCost - memory_->snap ? start + cost : at;
  }

  // The last part that works on the unit of a piece that part p begins.
  __device__ int last_part(const Piece& piece, int p) const {
    if (piece.whole()) return p;
    const int parts = memory_->parts_per_unit;
    if (parts > 0) return p / parts * parts + (piece.num_tiles * parts - 1) / (memory_->cost - kUnitCost);
    return part_of(piece.unit_start + kUnitCost + piece.num_tiles - 1, p);
  }

  // Walks the pieces of one part: position = cut(p); while (next(position, cut(p + 1), piece)) ...
  __device__ bool next(int& position, int end, Piece& piece) const {
    while (position < end) {
      const int s = seq_at(position);
      const int cost = unit_cost(s);
      const int unit = (position - memory_->prefix[s]) / cost;
      const int start = memory_->prefix[s] + unit * cost;
      const int begin = max(position - start - kUnitCost, 0);
      const int stop = min(end - start, cost) - kUnitCost;
      position = start + min(end - start, cost);
      const int q_len = memory_->row[s + 1] - memory_->row[s];
      const int token = unit * launch_->tokens_per_unit;
      piece.seq = s;
      piece.first_row = memory_->row[s] + token;
      piece.num_tokens = min(launch_->tokens_per_unit, q_len - token);
      piece.num_visible = memory_->length[s] - q_len + token + 1;
      piece.num_tiles = (piece.length() + kMlaTile - 1) / kMlaTile;
      piece.tile_begin = begin;
      piece.tile_end = min(stop, piece.num_tiles);
      piece.unit_start = start;
      piece.starts_unit = begin == 0;
      if (piece.tile_begin >= piece.tile_end) continue;
      return true;
    }
    return false;
  }

 private:
  __device__ int units_of(int s) const {
    const int q_len = memory_->row[s + 1] - memory_->row[s];
    if (q_len <= 0 || memory_->length[s] < q_len) return 0;
    return (q_len + launch_->tokens_per_unit - 1) / launch_->tokens_per_unit;
  }
  __device__ int unit_cost(int s) const { return kUnitCost + (memory_->length[s] + kMlaTile - 1) / kMlaTile; }

  // The positions of the sequences, and what the units are like; one warp.
  __device__ void scan(int num_seqs, int max_parts) {
    const int lane = static_cast<int>(threadIdx.x);
    if (lane == 0) memory_->prefix[0] = memory_->row[0] = 0;
    __syncwarp();
    int carry = 0;
    int smallest = INT_MAX;
    int largest = 0;
    int units = 0;
    for (int begin = 0; begin < num_seqs; begin += 32) {
      const int s = begin + lane;
      const int num_units = s < num_seqs ? units_of(s) : 0;
      const int cost = num_units > 0 ? unit_cost(s) : 0;
      units += num_units;
      if (num_units > 0) smallest = min(smallest, cost);
      largest = max(largest, cost);
      int value = num_units * cost;
      for (int step = 1; step < 32; step *= 2) {
        const int below = __shfl_up_sync(0xFFFFFFFFU, value, step);
        if (lane >= step) value += below;
      }
      if (s < num_seqs) memory_->prefix[s + 1] = carry + value;
      carry += __shfl_sync(0xFFFFFFFFU, value, 31);
    }
    smallest = __reduce_min_sync(0xFFFFFFFFU, smallest);
    largest = __reduce_max_sync(0xFFFFFFFFU, largest);
    units = __reduce_add_sync(0xFFFFFFFFU, units);
    if (lane != 0) return;
    memory_->total = carry;
    choose_cuts(max_parts, smallest, largest, units);
  }

  // The sequence whose stretch holds a position below memory_->total.
  __device__ int seq_at(int position) const {
    int low = 0;
    int high = launch_->base.num_seqs - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (memory_->prefix[middle + 1] > position) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  // The part that works on a position, at or after `from`.
  __device__ int part_of(int position, int from) const {
    int p = min(max(from, position / max(memory_->share, 1)), memory_->num_parts - 1);
    while (p > from && cut(p) > position) --p;
    while (p + 1 < memory_->num_parts && cut(p + 1) <= position) ++p;
    return p;
  }

  __device__ void choose_cuts(int max_parts, int smallest, int largest, int num_units) {
    // A part costs time to start, a split time to merge: with n tiles, parts of about sqrt(n) / 4 did best.
    // At least two positions, so that cuts never coincide.
    int min_tiles = 1;
    while (16 * min_tiles * min_tiles < largest - kUnitCost) ++min_tiles;
    memory_->num_parts = max(1, min(max_parts, memory_->total / max(kUnitCost + 1, min_tiles)));
    memory_->snap = 0;
    memory_->parts_per_unit = 0;
    memory_->units_per_part = 0;
    memory_->cost = largest;
    if (memory_->total == 0) {
      memory_->num_parts = 0;
      return;
    }
    memory_->share = memory_->total / memory_->num_parts;
    memory_->remainder = memory_->total - memory_->share * memory_->num_parts;
    const int share = memory_->share + 1;  // of the largest part
    memory_->snap = min(share / 16, 4);
    if (smallest != largest) return;
    const int tiles = largest - kUnitCost;
    if (num_units <= max_parts) {
      const int splits = max(1, min(max_parts / num_units, tiles / min_tiles));
      const int longest = (tiles + splits - 1) / splits + kUnitCost;
      if (longest > share + share / 8 + 2) return;
      memory_->parts_per_unit = splits;
      memory_->num_parts = splits * num_units;
    } else {
      const int units = (num_units + max_parts - 1) / max_parts;
      if (units * largest > share + share / 8 + 2) return;
      memory_->units_per_part = units;
      memory_->num_parts = (num_units + units - 1) / units;
    }
  }

  const MlaFast* launch_;
  ScheduleMemory* memory_;
};

}  // namespace nibble::kernels::cuda
