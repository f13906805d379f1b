#include "cli/table.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::cli {

namespace {

// In code points: "±" takes one place.
std::size_t width_of(const std::string& cell) {
  return static_cast<std::size_t>(std::count_if(
      cell.begin(), cell.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string padded(const std::string& cell, std::size_t width, bool right) {
  const std::string space(width - std::min(width, width_of(cell)), ' ');
  return right ? space + cell : cell + space;
}

std::string csv_cell(const std::string& cell) {
  if (cell.find_first_of(",\"\n") == std::string::npos) return cell;
  std::string quoted(1, '"');
  for (const char c : cell) {
    if (c == '"') quoted.push_back('"');
    quoted.push_back(c);
  }
  quoted.push_back('"');
  return quoted;
}

}  // namespace

std::vector<std::size_t> Table::widths() const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    std::size_t width = width_of(columns_[i].title);
    for (const auto& row : rows_) width = std::max(width, width_of(row[i]));
    widths.push_back(width);
  }
  return widths;
}

std::string Table::plain() const {
  const std::vector<std::size_t> width = widths();
  std::string text;
  const auto add_line = [&](auto cell_of) {
    std::string line;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) line.append(2, ' ');
      line.append(padded(cell_of(i), width[i], columns_[i].right_aligned));
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + '\n';
  };
  add_line([&](std::size_t i) { return columns_[i].title; });
  for (const auto& row : rows_) add_line([&](std::size_t i) { return row[i]; });
  return text;
}

std::string Table::markdown() const {
  const std::vector<std::size_t> width = widths();
  std::string text = "|";
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    text += fmt::format(" {} |", padded(columns_[i].title, width[i], columns_[i].right_aligned));
  }
  text += "\n|";
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    const bool right = columns_[i].right_aligned;
    text += fmt::format(" {}{} |", std::string(width[i] - (right ? 1 : 0), '-'), right ? ":" : "");
  }
  for (const auto& row : rows_) {
    text += "\n|";
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      text += fmt::format(" {} |", padded(row[i], width[i], columns_[i].right_aligned));
    }
  }
  return text + '\n';
}

std::string Table::csv() const {
  std::string text;
  const auto add_line = [&](auto cell_of) {
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) text.push_back(',');
      text.append(csv_cell(cell_of(i)));
    }
    text.push_back('\n');
  };
  add_line([&](std::size_t i) { return columns_[i].title; });
  for (const auto& row : rows_) add_line([&](std::size_t i) { return row[i]; });
  return text;
}

}  // namespace nibble::cli
