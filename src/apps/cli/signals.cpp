#include "cli/signals.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

#include "nibble/llm.h"
#include "nibble/result.h"

namespace nibble::cli {

namespace {

// A signal handler can only reach globals; all are lock-free atomics.
std::atomic<int> g_tolerated{0};
std::atomic<int> g_interrupts{0};
std::atomic<Llm*> g_llm{nullptr};
std::atomic<bool> g_reading{false};

// Does nothing, but a read() that is blocked when it is called returns.
void on_alarm(int) {}

void on_interrupt(int) {
  if (g_reading.load()) alarm(1);
  if (g_interrupts.fetch_add(1) >= g_tolerated.load()) _exit(static_cast<int>(ErrorCode::interrupted));
  if (Llm* llm = g_llm.load()) llm->request_stop();
}

}  // namespace

void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a blocked read() must return
  sigaction(SIGINT, &action, nullptr);
  action.sa_handler = on_alarm;
  sigaction(SIGALRM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

bool interrupted() noexcept { return g_interrupts.load() > 0; }

void clear_interrupt() noexcept { g_interrupts.store(0); }

ReadScope::ReadScope() { g_reading.store(true); }

ReadScope::~ReadScope() {
  g_reading.store(false);
  alarm(0);
}

InterruptScope::InterruptScope(Llm* llm, int tolerated)
    : previous_llm_(g_llm.exchange(llm)), previous_tolerated_(g_tolerated.exchange(tolerated)) {}

InterruptScope::~InterruptScope() {
  g_tolerated.store(previous_tolerated_);
  g_llm.store(previous_llm_);
}

}  // namespace nibble::cli
