// Ctrl-C. By default it ends the program with exit code 130; inside an InterruptScope the first one
// only asks the work to stop.
#pragma once

namespace nibble {
class Llm;
}

namespace nibble::cli {

// SIGINT as described above; writing to a pipe nobody reads becomes an error instead of a signal.
void install_signal_handlers();

// True once Ctrl-C was pressed in the current scope.
bool interrupted() noexcept;
void clear_interrupt() noexcept;

// While this lives Ctrl-C sets interrupted() and calls llm->request_stop() (llm may be null). More than
// `tolerated` of them without a clear_interrupt() end the program at once: the work may be stuck.
class InterruptScope {
 public:
  explicit InterruptScope(Llm* llm, int tolerated = 1);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  Llm* previous_llm_;
  int previous_tolerated_;
};

// While it lives, Ctrl-C ends a read() from the terminal even if it arrives just before the read blocks:
// the signal alone would then be noted and the read go on waiting, so an alarm follows it.
class ReadScope {
 public:
  ReadScope();
  ~ReadScope();
  ReadScope(const ReadScope&) = delete;
  ReadScope& operator=(const ReadScope&) = delete;
};

}  // namespace nibble::cli
