// Chat templates, against what transformers renders from the published ones.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "tests/text/test_files.h"
#include "text/chat_template.h"

namespace nibble::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::golden_directories;
using testing::golden_tokenizer;
using ::testing::HasSubstr;
using testing::read_lines;

constexpr ChatMarkers kMarkers{.bos = "<｜begin▁of▁sentence｜>", .eos = "<｜end▁of▁sentence｜>"};

ChatRequest request_of(const json& row) {
  json object = row["kwargs"];
  object["messages"] = row["messages"];
  auto request = parse_chat_request(object.dump());
  EXPECT_TRUE(request.ok()) << request.error().message;
  return std::move(request).value();
}

TEST(ChatGolden, RendersEveryLine) {
  for (const fs::path& directory : golden_directories("chat")) {
    for (const char* name : {"deepseek-v3", "deepseek-r1", "deepseek-v3.1"}) {
      const ChatFormat format = *chat_format_from_name(name);
      for (const json& row : read_lines(directory / (std::string(name) + ".jsonl"))) {
        const auto text = golden_tokenizer().render_chat(request_of(row), format);
        ASSERT_TRUE(text.ok()) << text.error().message;
        EXPECT_EQ(*text, row["text"].get<std::string>()) << name << ": " << row["name"];
      }
    }
  }
}

TEST(ChatGolden, RendersRandomConversations) {
  const std::map<std::string, ChatTemplate> templates = {
      {"deepseek-v2", ChatTemplate::deepseek_v2},
      {"deepseek-v3", ChatTemplate::deepseek_v3},
      {"deepseek-r1", ChatTemplate::deepseek_r1},
      {"deepseek-r1-0528", ChatTemplate::deepseek_r1_0528},
      {"deepseek-v3.1", ChatTemplate::deepseek_v3_1},
      {"deepseek-v3.1-terminus", ChatTemplate::deepseek_v3_1_terminus},
  };
  for (const fs::path& directory : golden_directories("chat-vectors")) {
    for (const auto& [name, kind] : templates) {
      int failures = 0;
      for (const json& row : read_lines(directory / (name + ".jsonl"))) {
        const auto text = render_template(kind, request_of(row), kMarkers);
        const bool agrees = row.contains("error") ? !text.ok() && text.error().code == ErrorCode::bad_input
                                                  : text.ok() && *text == row["text"].get<std::string>();
        if (!agrees && ++failures <= 3) {
          ADD_FAILURE() << name << ": " << row.dump() << "\nfound "
                        << (text.ok() ? *text : text.error().message);
        }
      }
      EXPECT_EQ(failures, 0) << name;
    }
  }
}

TEST(Chat, NamesGoBothWays) {
  for (const char* name :
       {"raw", "deepseek-v2", "deepseek-v3", "deepseek-r1", "deepseek-v3.1", "deepseek-v4"}) {
    const auto format = chat_format_from_name(name);
    ASSERT_TRUE(format.ok());
    EXPECT_EQ(chat_format_name(*format), name);
  }
  const auto unknown = chat_format_from_name("deepseek-v9");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, ErrorCode::bad_input);
  EXPECT_THAT(unknown.error().message, HasSubstr("deepseek-v3.1"));
}

TEST(Chat, RawAndV4AreErrors) {
  const ChatRequest request{.messages = {{.role = "user", .content = "x"}}};
  EXPECT_EQ(golden_tokenizer().render_chat(request, ChatFormat::raw).error().code, ErrorCode::bad_input);
  EXPECT_EQ(golden_tokenizer().render_chat(request, ChatFormat::deepseek_v4).error().code,
            ErrorCode::unsupported);
}

TEST(Chat, TemplatesAreRecognised) {
  const std::map<std::string, std::optional<ChatTemplate>> samples = {
      {"{{ 'User: ' + message['content'] }}{{ 'Assistant:' }}", ChatTemplate::deepseek_v2},
      {"{{'<｜User｜>' + message['content'] + '<｜Assistant｜>'}}", ChatTemplate::deepseek_v3},
      {"{{'<｜User｜>'}}{% set content = content.split('</think>')[-1] %}{{'<｜Assistant｜><think>\\n'}}",
       ChatTemplate::deepseek_r1},
      {"{% set content = content.split('</think>')[-1] %}{{'<｜User｜>' + content + '<｜Assistant｜>'}}",
       ChatTemplate::deepseek_r1_0528},
      {"{% if not thinking is defined %}{{'<｜User｜>'}}{{content.split('</think>', 1)[1]}}",
       ChatTemplate::deepseek_v3_1},
      {"{% set ns = namespace(is_only_sys=false) %}{% if not thinking %}{{'<｜User｜>'}}",
       ChatTemplate::deepseek_v3_1_terminus},
      {"{{'<|im_start|>user'}}", std::nullopt},
      {"", std::nullopt},
  };
  for (const auto& [jinja, kind] : samples) EXPECT_EQ(recognise_template(jinja), kind) << jinja;
}

std::string error_of(std::string_view line) {
  const auto request = parse_chat_request(line);
  EXPECT_FALSE(request.ok()) << line;
  if (request.ok()) return "";
  EXPECT_EQ(request.error().code, ErrorCode::bad_input);
  return request.error().message;
}

TEST(ChatRequest, ErrorsNameTheField) {
  EXPECT_THAT(error_of("[]"), HasSubstr("expected an object"));
  EXPECT_THAT(error_of("{"), HasSubstr("invalid JSON"));
  EXPECT_THAT(error_of("{}"), HasSubstr("messages: missing"));
  EXPECT_THAT(error_of(R"({"messages":[]})"), HasSubstr("messages: empty"));
  EXPECT_THAT(error_of(R"({"messages":{}})"), HasSubstr("messages: expected an array"));
  EXPECT_THAT(error_of(R"({"messages":["x"]})"), HasSubstr("messages[0]: expected an object, found \"x\""));
  EXPECT_THAT(error_of(R"({"messages":[{}]})"), HasSubstr("messages[0].role: missing"));
  EXPECT_THAT(error_of(R"({"messages":[{"role":1}]})"), HasSubstr("messages[0].role: expected text"));
  EXPECT_THAT(error_of(R"({"messages":[{"role":"user","content":[]}]})"),
              HasSubstr("messages[0].content: expected text"));
  const std::string calls = R"({"messages":[{"role":"assistant","tool_calls":)";
  EXPECT_THAT(error_of(calls + "3}]}"), HasSubstr("tool_calls: expected an array"));
  EXPECT_THAT(error_of(calls + "[3]}]}"), HasSubstr("tool_calls[0]: expected an object"));
  EXPECT_THAT(error_of(calls + "[{}]}]}"), HasSubstr("tool_calls[0].function: missing"));
  EXPECT_THAT(error_of(calls + R"([{"function":{}}]}]})"), HasSubstr("tool_calls[0].function.name: missing"));
  EXPECT_THAT(error_of(calls + R"([{"function":{"name":"f","arguments":{}}}]}]})"),
              HasSubstr("tool_calls[0].function.arguments: expected text"));
  EXPECT_THAT(error_of(R"({"messages":[{"role":"user"}],"thinking":1})"),
              HasSubstr("thinking: expected true or false"));
  EXPECT_THAT(error_of(R"({"messages":[{"role":"user"}],"tools":1})"), HasSubstr("tools: expected an array"));
  EXPECT_THAT(error_of("{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}"),
              HasSubstr("invalid JSON"));
}

std::string with_messages(std::size_t count) {
  json request = {{"messages", json::array()}};
  for (std::size_t i = 0; i < count; ++i) request["messages"].push_back({{"role", "user"}, {"content", "x"}});
  return request.dump();
}

TEST(ChatRequest, LimitsTheNumberOfMessages) {
  EXPECT_TRUE(parse_chat_request(with_messages(4096)).ok());
  EXPECT_THAT(error_of(with_messages(4097)), HasSubstr("4097 entries, at most 4096"));
}

TEST(ChatRequest, LimitsNesting) {
  const std::string deep = std::string(100, '[') + std::string(100, ']');
  EXPECT_THAT(error_of(R"({"messages":[{"role":"user"}],"tools":)" + deep + "}"), HasSubstr("nested deeper"));
}

TEST(ChatRequest, KeepsToolsAndTellsNoCallsFromAnEmptyList) {
  const auto request = parse_chat_request(
      R"({"messages":[{"role":"assistant","content":"a"},{"role":"assistant","content":"b","tool_calls":[]}],
          "tools":[{"type":"function"}],"thinking":null})");
  ASSERT_TRUE(request.ok()) << request.error().message;
  EXPECT_FALSE(request->messages[0].has_tool_calls);
  EXPECT_TRUE(request->messages[1].has_tool_calls);
  EXPECT_EQ(request->tools_json, R"([{"type":"function"}])");
  EXPECT_FALSE(request->thinking.has_value());
}

TEST(Chat, NullContentNamesTheMessage) {
  const ChatRequest request{.messages = {{.role = "user", .content = "x"}, {.role = "tool"}}};
  const auto text = golden_tokenizer().render_chat(request, ChatFormat::deepseek_v3);
  ASSERT_FALSE(text.ok());
  EXPECT_THAT(text.error().message, HasSubstr("messages[1].content"));
}

}  // namespace
}  // namespace nibble::text
