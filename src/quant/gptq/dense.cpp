#include "quant/gptq/dense.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

namespace nibble::quant {
namespace {

// Depth of one pass: a packed strip of B stays in the L1 cache.
constexpr std::int64_t kDepth = 256;

// Spelled as vectors, since compilers vectorise the sum over p instead, with shuffles, at a third of the
// speed. 16 bytes exist on every 64-bit processor; four rows of two vectors leave registers for operands.
template <class T>
struct Lanes {
  static constexpr std::size_t kCount = 16 / sizeof(T);
  using Vector [[gnu::vector_size(16)]] = T;
};
constexpr std::int64_t kTileRows = 4;
constexpr std::size_t kTileVectors = 2;
template <class T>
constexpr std::int64_t kTileColumns = kTileVectors* Lanes<T>::kCount;

// Columns of a panel, and rows of a task.
constexpr std::int64_t kPanel = 64;
constexpr std::int64_t kTaskRows = 32;

// kTileColumns columns of B, row after row.
template <class T>
using Strip = std::array<typename Lanes<T>::Vector, kDepth * kTileVectors>;

// The columns [0, width) of B, zero-padded to whole vectors.
template <class T>
void pack_strip(Rows<const T> b, std::int64_t depth, std::int64_t width, Strip<T>& strip) {
  for (std::int64_t p = 0; p < depth; ++p) {
    std::array<T, static_cast<std::size_t>(kTileColumns<T>)> row{};
    std::copy_n(b.row(p), width, row.begin());
    std::memcpy(&strip[static_cast<std::size_t>(p) * kTileVectors], row.data(), sizeof(row));
  }
}

// Up to four rows of C minus A times the strip.
template <class T>
void subtract_tile(Rows<const T> a, const Strip<T>& strip, Rows<T> c, std::int64_t rows, std::int64_t depth,
                   std::int64_t width) {
  const T* a0 = a.row(0);
  const T* a1 = a.row(std::min<std::int64_t>(1, rows - 1));
  const T* a2 = a.row(std::min<std::int64_t>(2, rows - 1));
  const T* a3 = a.row(rows - 1);
  typename Lanes<T>::Vector sums[kTileRows][kTileVectors] = {};
  for (std::int64_t p = 0; p < depth; ++p) {
    const auto* b = &strip[static_cast<std::size_t>(p) * kTileVectors];
    for (std::size_t v = 0; v < kTileVectors; ++v) {
      sums[0][v] += b[v] * a0[p];
      sums[1][v] += b[v] * a1[p];
      sums[2][v] += b[v] * a2[p];
      sums[3][v] += b[v] * a3[p];
    }
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    std::array<T, static_cast<std::size_t>(kTileColumns<T>)> row;
    std::memcpy(row.data(), sums[r], sizeof(row));
    for (std::int64_t j = 0; j < width; ++j) c.row(r)[j] -= row[static_cast<std::size_t>(j)];
  }
}

// Factors the diagonal block [begin, end), whose earlier columns have been subtracted already.
bool factor_block(Rows<double> a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    for (std::int64_t j = begin; j <= i; ++j) {
      double sum = a.row(i)[j];
      for (std::int64_t p = begin; p < j; ++p) sum -= a.row(i)[p] * a.row(j)[p];
      if (j < i) {
        a.row(i)[j] = sum / a.row(j)[j];
      } else if (sum > 0.0 && std::isfinite(sum)) {
        a.row(i)[i] = std::sqrt(sum);
      } else {
        return false;
      }
    }
  }
  return true;
}

// Columns [begin, end) of a row below the diagonal block: solves x L_block^T = a.
void solve_row(Rows<double> a, std::int64_t row, std::int64_t begin, std::int64_t end) {
  double* x = a.row(row);
  for (std::int64_t j = begin; j < end; ++j) {
    double sum = x[j];
    for (std::int64_t p = begin; p < j; ++p) sum -= x[p] * a.row(j)[p];
    x[j] = sum / a.row(j)[j];
  }
}

// Calls fn(first, last) for spans of kTaskRows rows of [begin, end) on all threads.
template <class Fn>
void for_row_spans(std::int64_t begin, std::int64_t end, ThreadPool& threads, Fn&& fn) {
  threads.parallel_for((end - begin + kTaskRows - 1) / kTaskRows, [&](std::int64_t task, int) {
    const std::int64_t first = begin + task * kTaskRows;
    fn(first, std::min(first + kTaskRows, end));
  });
}

// Solves for columns [begin, end) of the inverse; x[i - begin] is row i of the solution.
void solve_columns(Rows<const double> l, std::int64_t n, std::int64_t begin, std::int64_t end,
                   Rows<double> x) {
  const std::int64_t width = end - begin;
  for (std::int64_t first = begin; first < n; first += kPanel) {
    const std::int64_t last = std::min(first + kPanel, n);
    for (std::int64_t i = first; i < last; ++i) {
      std::fill_n(x.row(i - begin), width, 0.0);
      if (i < end) x.row(i - begin)[i - begin] = 1.0;
    }
    subtract_product<double>(l.from(first, begin), {x.data, x.stride}, x.from(first - begin, 0), last - first,
                             first - begin, width);
    for (std::int64_t i = first; i < last; ++i) {
      double* row = x.row(i - begin);
      for (std::int64_t p = first; p < i; ++p) {
        const double factor = l.row(i)[p];
        for (std::int64_t j = 0; j < width; ++j) row[j] -= factor * x.row(p - begin)[j];
      }
      for (std::int64_t j = 0; j < width; ++j) row[j] /= l.row(i)[i];
    }
  }
}

}  // namespace

template <class T>
void subtract_product(Rows<const T> a, Rows<const T> b, Rows<T> c, std::int64_t rows, std::int64_t depth,
                      std::int64_t columns) {
  Strip<T> strip;
  for (std::int64_t p = 0; p < depth; p += kDepth) {
    const std::int64_t pass = std::min(kDepth, depth - p);
    for (std::int64_t j = 0; j < columns; j += kTileColumns<T>) {
      const std::int64_t width = std::min(kTileColumns<T>, columns - j);
      pack_strip(b.from(p, j), pass, width, strip);
      for (std::int64_t i = 0; i < rows; i += kTileRows) {
        subtract_tile(a.from(i, p), strip, c.from(i, j), std::min(kTileRows, rows - i), pass, width);
      }
    }
  }
}

template void subtract_product<float>(Rows<const float>, Rows<const float>, Rows<float>, std::int64_t,
                                      std::int64_t, std::int64_t);
template void subtract_product<double>(Rows<const double>, Rows<const double>, Rows<double>, std::int64_t,
                                       std::int64_t, std::int64_t);

// Right-looking: factor a panel of columns, subtract its products from everything to the right of it.
bool cholesky(Rows<double> a, std::int64_t n, ThreadPool& threads) {
  std::vector<double> transposed;
  for (std::int64_t begin = 0; begin < n; begin += kPanel) {
    const std::int64_t end = std::min(begin + kPanel, n);
    if (!factor_block(a, begin, end)) return false;
    const std::int64_t rest = n - end;
    transposed.resize(static_cast<std::size_t>((end - begin) * rest));
    for_row_spans(end, n, threads, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t i = first; i < last; ++i) {
        solve_row(a, i, begin, end);
        for (std::int64_t p = begin; p < end; ++p) {
          transposed[static_cast<std::size_t>((p - begin) * rest + i - end)] = a.row(i)[p];
        }
      }
    });
    const Rows<const double> panel_t{transposed.data(), rest};
    for_row_spans(end, n, threads, [&](std::int64_t first, std::int64_t last) {
      subtract_product<double>({a.row(first) + begin, a.stride}, panel_t, a.from(first, end), last - first,
                               end - begin, last - end);
    });
  }
  return true;
}

void invert_lower_turned(Rows<const double> l, std::int64_t n, Rows<float> out, ThreadPool& threads) {
  threads.parallel_for((n + kTaskRows - 1) / kTaskRows, [&](std::int64_t task, int) {
    const std::int64_t begin = task * kTaskRows;
    const std::int64_t end = std::min(begin + kTaskRows, n);
    std::vector<double> solution(static_cast<std::size_t>((n - begin) * (end - begin)));
    const Rows<double> x{solution.data(), end - begin};
    solve_columns(l, n, begin, end, x);
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t j = begin; j < end; ++j) {
        out.row(n - 1 - i)[n - 1 - j] = i < j ? 0.0F : static_cast<float>(x.row(i - begin)[j - begin]);
      }
    }
  });
}

}  // namespace nibble::quant
