#include "cli/line_reader.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <string_view>

#include "cli/files.h"
#include "cli/signals.h"

namespace nibble::cli {

namespace {

constexpr std::size_t kMaxLineBytes = std::size_t{1} << 20;
constexpr int kHistoryLines = 1000;

// What is used of <histedit.h>, so that neither building nor running needs the package.
constexpr int kElPrompt = 0, kElEditor = 2, kElSignal = 3, kElHist = 10, kElClientData = 14, kElPrepTerm = 16;
constexpr int kHistSetSize = 1, kHistEnter = 10, kHistSetUnique = 20;

struct EditLine;
struct History;
struct HistEvent {
  int number;
  const char* text;
};
struct LineInfo {
  const char* buffer;
  const char* cursor;
  const char* last;
};

// libedit's functions, looked up by name at run time.
struct Libedit {
  EditLine* (*el_init)(const char*, FILE*, FILE*, FILE*);
  void (*el_end)(EditLine*);
  int (*el_set)(EditLine*, int, ...);
  int (*el_get)(EditLine*, int, ...);
  const char* (*el_gets)(EditLine*, int*);
  const LineInfo* (*el_line)(EditLine*);
  void (*el_reset)(EditLine*);
  History* (*history_init)();
  void (*history_end)(History*);
  int (*history)(History*, HistEvent*, int, ...);
};

template <class F>
bool find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

std::optional<Libedit> open_libedit() {
  void* library = nullptr;
  for (const char* name : {"libedit.so.2", "libedit.so.0", "libedit.3.dylib"}) {
    if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  Libedit lib{};
  const bool complete =
      library != nullptr && find(library, "el_init", lib.el_init) && find(library, "el_end", lib.el_end) &&
      find(library, "el_set", lib.el_set) && find(library, "el_get", lib.el_get) &&
      find(library, "el_gets", lib.el_gets) && find(library, "el_line", lib.el_line) &&
      find(library, "el_reset", lib.el_reset) && find(library, "history_init", lib.history_init) &&
      find(library, "history_end", lib.history_end) && find(library, "history", lib.history);
  if (!complete) return std::nullopt;
  return lib;
}

}  // namespace

struct LineReader::Impl {
  std::optional<Libedit> lib;
  EditLine* editor = nullptr;
  History* past = nullptr;
  std::string prompt;
  LineSource plain{kMaxLineBytes};

  Impl() {
    if (::isatty(STDIN_FILENO) != 1 || ::isatty(STDERR_FILENO) != 1) return;
    lib = open_libedit();
    if (!lib) return;
    editor = lib->el_init("nibble", stdin, stderr, stderr);
    if (editor == nullptr) return;
    past = lib->history_init();
    HistEvent event{};
    lib->history(past, &event, kHistSetSize, kHistoryLines);
    lib->history(past, &event, kHistSetUnique, 1);
    lib->el_set(editor, kElClientData, this);
    lib->el_set(editor, kElPrompt, &Impl::current_prompt);
    lib->el_set(editor, kElEditor, "emacs");
    lib->el_set(editor, kElSignal, 0);
    lib->el_set(editor, kElHist, lib->history, past);
  }

  ~Impl() {
    if (editor != nullptr) lib->el_end(editor);
    if (past != nullptr) lib->history_end(past);
  }

  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // libedit asks for the prompt through a function without state of its own, hence the client data.
  static const char* current_prompt(EditLine* el) {
    static const std::optional<Libedit> functions = open_libedit();
    void* self = nullptr;
    functions->el_get(el, kElClientData, &self);
    return static_cast<Impl*>(self)->prompt.c_str();
  }

  Event read_edited(std::string& line) {
    // el_gets shows the prompt before it takes the terminal over; a Ctrl-D typed in between is lost.
    lib->el_set(editor, kElPrepTerm, 1);
    int length = 0;
    const char* text = lib->el_gets(editor, &length);
    if (text == nullptr || length <= 0) {
      if (!interrupted()) return Event::end;
      const LineInfo* info = lib->el_line(editor);
      const bool typed = info != nullptr && info->last > info->buffer;
      lib->el_reset(editor);
      return typed ? Event::interrupt_in_line : Event::interrupt;
    }
    line.assign(text, static_cast<std::size_t>(length));
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    if (line.size() > kMaxLineBytes) return Event::too_long;
    HistEvent event{};
    if (!line.empty()) lib->history(past, &event, kHistEnter, line.c_str());
    return Event::line;
  }

  Event read_plain(std::string& line) {
    if (::isatty(STDIN_FILENO) == 1) std::fputs(prompt.c_str(), stderr);
    std::fflush(stderr);
    switch (plain.next(line)) {
      case LineSource::Status::line: return Event::line;
      case LineSource::Status::interrupted: return Event::interrupt;
      case LineSource::Status::too_long: return Event::too_long;
      default: return Event::end;
    }
  }
};

LineReader::LineReader() : impl_(std::make_unique<Impl>()) {}
LineReader::~LineReader() = default;

LineReader::Event LineReader::read(const std::string& prompt, std::string& line) {
  impl_->prompt = prompt;
  clear_interrupt();
  const ReadScope scope;
  return impl_->editor != nullptr ? impl_->read_edited(line) : impl_->read_plain(line);
}

bool LineReader::editing_available() { return open_libedit().has_value(); }

}  // namespace nibble::cli
