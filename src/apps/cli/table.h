// Text tables with aligned columns.
#pragma once

#include <string>
#include <vector>

namespace nibble::cli {

struct Column {
  std::string title;
  bool right_aligned = false;
};

class Table {
 public:
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

  // Columns separated by two spaces.
  [[nodiscard]] std::string plain() const;
  // | a | b |, with the alignment row.
  [[nodiscard]] std::string markdown() const;
  [[nodiscard]] std::string csv() const;

 private:
  [[nodiscard]] std::vector<std::size_t> widths() const;

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace nibble::cli
