"""`nibble tokenize` against ids, texts and rendered prompts made with the publishers' libraries."""

import json
import pathlib
import shutil
import tempfile
import unittest

import nibble_process as nibble

TOKENIZER = nibble.golden("tokenizer")
CHATS = nibble.golden("chat")


def read_lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def tokenize(requests, *options, model=TOKENIZER):
    text = "".join(json.dumps(request) + "\n" for request in requests)
    answer = nibble.run("tokenize", model, *options, stdin=text)
    if answer.code != 0:
        raise AssertionError(answer)
    return [json.loads(line) for line in answer.out.split("\n")[:-1]]


@unittest.skipIf(TOKENIZER is None, "no golden tokenizer")
class Tokenize(unittest.TestCase):
    def check_all(self, model):
        lines = read_lines(TOKENIZER / "tokenizer_golden.jsonl")
        self.assertGreater(len(lines), 600)
        for line, got in zip(lines, tokenize([{"text": line["text"]} for line in lines], model=model)):
            self.assertEqual(got, {"ids": line["ids"]}, line["text"])
        for line, got in zip(lines, tokenize([{"ids": line["ids"]} for line in lines], model=model)):
            self.assertEqual(got, {"text": line["decoded"]})
        skipping = [{"ids": line["ids"], "skip_special_tokens": True} for line in lines]
        for line, got in zip(lines, tokenize(skipping, model=model)):
            self.assertEqual(got, {"text": line["decoded_skip_special"]})

    def test_golden_texts(self):
        self.check_all(TOKENIZER)

    def test_merges_written_as_pairs(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(TOKENIZER / "tokenizer.pairs.json", pathlib.Path(folder) / "tokenizer.json")
            self.check_all(folder)

    def test_ids_that_are_no_valid_utf8(self):
        lines = read_lines(TOKENIZER / "tokenizer_decode_golden.jsonl")
        for key, skip in (("decoded", False), ("decoded_skip_special", True)):
            requests = [{"ids": line["ids"], "skip_special_tokens": skip} for line in lines]
            for line, got in zip(lines, tokenize(requests)):
                self.assertEqual(got, {"text": line[key]}, line["ids"])

    @unittest.skipIf(CHATS is None, "no golden chats")
    def test_golden_chats(self):
        for name in ("deepseek-v3", "deepseek-r1", "deepseek-v3.1"):
            lines = read_lines(CHATS / f"{name}.jsonl")
            requests = [{"messages": line["messages"], **line["kwargs"]} for line in lines]
            answers = tokenize(requests, "--chat-format", name)
            ids = tokenize([{"text": line["text"]} for line in lines])
            for line, got, want_ids in zip(lines, answers, ids):
                with self.subTest(format=name, name=line.get("name")):
                    self.assertEqual(got["text"], line["text"])
                    self.assertEqual(got["ids"], want_ids["ids"])

    def test_bad_lines_name_their_number(self):
        good = b'{"text": "Hello"}\n'
        cases = {
            b"not json\n": "JSON",
            b"[1, 2]\n": "object",
            b"{}\n": "text",
            b'{"text": "a", "ids": [1]}\n': "found 2",
            b'{"text": 5}\n': "text",
            b'{"text": "a", "text": "b"}\n': "twice",
            b'{"text": "\\ud800"}\n': "JSON",
            b'{"text": "\xff"}\n': "JSON",
            b'{"ids": "1"}\n': "ids",
            b'{"ids": [1.5]}\n': "index 0",
            b'{"ids": [4096]}\n': "4096",
            b'{"ids": [-1]}\n': "index 0",
            b'{"ids": [99999999999]}\n': "index 0",
            b'{"ids": [1], "skip_special_tokens": 1}\n': "skip_special_tokens",
            b'{"messages": 5}\n': "messages",
            b'{"messages": [{"role": 7, "content": "x"}]}\n': "role",
            b"{\"a\":" * 100 + b"\n": "levels",
        }
        for line, word in cases.items():
            with self.subTest(line=line[:40]):
                answer = nibble.run("tokenize", TOKENIZER, "--chat-format", "deepseek-v3",
                                    stdin=good + b"\n" + line + good)
                self.assertEqual(answer.code, 2, answer)
                self.assertIn("line 3", answer.err)
                self.assertIn(word, answer.err)
                self.assertEqual(answer.out.count("\n"), 1, "the good line before it was answered")

    def test_no_input_and_last_line_without_newline(self):
        self.assertEqual(nibble.run("tokenize", TOKENIZER).out, "")
        self.assertEqual(nibble.run("tokenize", TOKENIZER, stdin='{"text": ""}').json, {"ids": []})

    def test_unknown_chat_format(self):
        answer = nibble.run("tokenize", TOKENIZER, "--chat-format", "chatml", stdin="")
        self.assertEqual(answer.code, 2, answer)
        self.assertIn("deepseek-v3", answer.err)

    def test_long_line(self):
        text = "word " * 200_000
        (got,) = tokenize([{"text": text}])
        (back,) = tokenize([{"ids": got["ids"]}])
        self.assertEqual(back["text"], text)

    def test_no_tokenizer(self):
        with tempfile.TemporaryDirectory() as folder:
            answer = nibble.run("tokenize", folder, stdin='{"text": "a"}\n')
            self.assertEqual(answer.code, 2, answer)
            self.assertIn("tokenizer.json", answer.err)


if __name__ == "__main__":
    unittest.main()
