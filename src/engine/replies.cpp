#include "engine/replies.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "engine/stop_strings.h"

namespace nibble::engine {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// One request on its way: tokens come in, text goes out.
struct Reply {
  RequestId id = 0;
  Generation generation;
  std::optional<Detokenizer> detokenizer;
  StopStrings stops;
  double first_token_s = 0;
  double last_token_s = 0;
  bool done = false;

  explicit Reply(const GenerateRequest& request, const Tokenizer* tokenizer) : stops(request.stop_strings) {
    generation.prompt_tokens = static_cast<std::int32_t>(request.prompt.size());
    if (tokenizer != nullptr) detokenizer.emplace(*tokenizer, request.skip_special);
  }

  // Adds a token; returns the text that became certain.
  std::string push(TokenId token, FinishReason finish) {
    generation.token_ids.push_back(token);
    // A stop token ends the reply and is no part of its text.
    if (!detokenizer || finish == FinishReason::stop) return {};
    return append(stops.push(detokenizer->push(token)));
  }

  // The text still held back at the end.
  std::string flush() {
    if (!detokenizer || stops.stopped()) return {};
    std::string text = append(stops.push(detokenizer->flush()));
    return text + append(stops.flush());
  }

  void end(FinishReason finish) {
    done = true;
    generation.finish = finish;
    const auto num_decoded = static_cast<double>(generation.token_ids.size()) - 1;
    Timings& t = generation.timings;
    t.prefill_s = first_token_s;
    t.decode_s = last_token_s - first_token_s;
    t.prefill_tok_s = t.prefill_s > 0 ? generation.prompt_tokens / t.prefill_s : 0;
    t.decode_tok_s = num_decoded > 0 && t.decode_s > 0 ? num_decoded / t.decode_s : 0;
  }

 private:
  std::string append(std::string text) {
    generation.text += text;
    return text;
  }
};

class ReplyRunner {
 public:
  ReplyRunner(Engine& engine, const TextCallback& on_text) : engine_(engine), on_text_(on_text) {}
  ReplyRunner(const ReplyRunner&) = delete;
  ReplyRunner& operator=(const ReplyRunner&) = delete;

  // Nothing is left behind in the engine, whichever way the run ended.
  ~ReplyRunner() {
    for (const Reply& reply : replies_) {
      if (!reply.done) engine_.cancel(reply.id);
    }
  }

  Status add(std::span<const GenerateRequest> requests, const Tokenizer* tokenizer) {
    num_requests_ = requests.size();
    replies_.reserve(requests.size());
    for (std::size_t i = 0; i < requests.size(); ++i) {
      Status status = add_one(requests[i], tokenizer);
      if (status.ok()) continue;
      return in_request(i, std::move(status).error());
    }
    return {};
  }

  Status run(const std::atomic<bool>& stop) {
    const Clock::time_point start = Clock::now();
    while (std::any_of(replies_.begin(), replies_.end(), [](const Reply& r) { return !r.done; })) {
      if (stop.load(std::memory_order_relaxed)) {
        for (Reply& reply : replies_) {
          if (!reply.done) finish(reply, FinishReason::cancelled);
        }
        return {};
      }
      const auto events = engine_.step();
      const double now = seconds_since(start);
      for (const EngineEvent& event : events) NIB_TRY_STATUS(handle(event, now));
    }
    return {};
  }

  std::vector<Generation> take() {
    std::vector<Generation> generations;
    for (Reply& reply : replies_) generations.push_back(std::move(reply.generation));
    return generations;
  }

 private:
  Status add_one(const GenerateRequest& request, const Tokenizer* tokenizer) {
    NIB_TRY_STATUS(check_stop_strings(request.stop_strings));
    if (tokenizer == nullptr && !request.stop_strings.empty()) {
      return bad_input("stop strings need a tokenizer, and the model directory has no tokenizer.json");
    }
    for (const std::string& s : request.stop_strings) {
      auto valid = tokenizer->encode(s);
      if (!valid.ok()) return std::move(valid).error().with_context("stop string");
    }
    replies_.emplace_back(request, tokenizer);
    const auto id = engine_.add(request.prompt, request.sampling);
    if (id.ok()) {
      replies_.back().id = *id;
      return {};
    }
    replies_.pop_back();
    return id.error();
  }

  Status handle(const EngineEvent& event, double now) {
    const auto it =
        std::find_if(replies_.begin(), replies_.end(), [&](const Reply& r) { return r.id == event.request; });
    if (it == replies_.end() || it->done) return {};
    Reply& reply = *it;
    if (event.finish == FinishReason::error) {
      reply.end(FinishReason::error);
      return in_request(static_cast<std::size_t>(it - replies_.begin()), event.error);
    }
    bool wanted = true;
    if (event.token) {
      if (reply.generation.token_ids.empty()) reply.first_token_s = now;
      reply.last_token_s = now;
      wanted = tell(reply, reply.push(*event.token, event.finish), *event.token);
    }
    if (reply.stops.stopped() || event.finish != FinishReason::none) {
      finish(reply, reply.stops.stopped() ? FinishReason::stop : event.finish);
    } else if (!wanted) {
      finish(reply, FinishReason::cancelled);
    }
    return {};
  }

  void finish(Reply& reply, FinishReason reason) {
    engine_.cancel(reply.id);  // does nothing if the engine ended it
    const std::string rest = reply.flush();
    if (!rest.empty()) tell(reply, rest, reply.generation.token_ids.back());
    reply.end(reason);
  }

  // Says which request an error belongs to, where there are several.
  Error in_request(std::size_t request_idx, Error error) const {
    return num_requests_ == 1 ? error : std::move(error).with_context(fmt::format("request {}", request_idx));
  }

  bool tell(const Reply& reply, std::string_view text, TokenId token) {
    return !on_text_ || &reply != &replies_.front() || on_text_(text, token);
  }

  Engine& engine_;
  const TextCallback& on_text_;
  std::vector<Reply> replies_;
  std::size_t num_requests_ = 0;
};

}  // namespace

Result<std::vector<Generation>> generate_replies(Engine& engine, const Tokenizer* tokenizer,
                                                 std::span<const GenerateRequest> requests,
                                                 const TextCallback& on_text, const std::atomic<bool>& stop) {
  ReplyRunner runner(engine, on_text);
  NIB_TRY_STATUS(runner.add(requests, tokenizer));
  NIB_TRY_STATUS(runner.run(stop));
  return runner.take();
}

}  // namespace nibble::engine
