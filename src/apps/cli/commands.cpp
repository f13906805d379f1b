#include <array>

#include "cli/command.h"

namespace nibble::cli {

namespace {

constexpr std::array kCommands{
    CommandInfo{"run", "Continue a prompt, answer a message, or chat",
                "nibble run DIR -p \"Once upon a time\" --raw --max-tokens 64\n"
                "nibble run DIR --chat -p \"Why is the sky blue?\" --temperature 0.6 --top-p 0.95\n"
                "nibble run DIR --prompt-tokens 1,2,3 --json\n"
                "nibble run DIR                       (a chat, in a terminal)\n",
                &make_run},
    CommandInfo{"chat", "Chat in the terminal (run without a prompt)",
                "nibble chat DIR\n"
                "nibble chat DIR --system \"Answer in one sentence.\" --temperature 0.6\n",
                &make_chat},
    CommandInfo{
        "logits", "Write the logits of a token sequence to a safetensors file",
        "nibble logits DIR --tokens ids.json --output logits.safetensors\n"
        "nibble logits DIR --tokens ids.json --output out.safetensors --mla absorb --prefill-chunk 7\n"
        "nibble logits DIR --tokens ids.json --output out.safetensors --decode-from 5 --batch-with b.json\n",
        &make_logits},
    CommandInfo{"tokenize", "Text to token ids and back, chat messages to prompts (JSON lines)",
                "echo '{\"text\": \"Hello\"}' | nibble tokenize DIR\n"
                "echo '{\"ids\": [1, 2, 3]}' | nibble tokenize DIR\n"
                "echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], "
                "\"add_generation_prompt\": true}' | "
                "nibble tokenize DIR --chat-format deepseek-v3\n",
                &make_tokenize},
    CommandInfo{"inspect", "Check a checkpoint's headers; list tensors, formats and bytes",
                "nibble inspect DIR\n"
                "nibble inspect DIR --tensors\n"
                "nibble inspect DIR --sha256 --json\n",
                &make_inspect},
    CommandInfo{"plan", "Memory and kernel plan, from headers only",
                "nibble plan DIR --max-model-len 8192\n"
                "nibble plan --load-format dummy --config config.json --quantization mxfp4\n",
                &make_plan},
    CommandInfo{"quantize", "Write a checkpoint in another number format",
                "nibble quantize DIR OUT --format mxfp4\n"
                "nibble quantize DIR OUT --format fp8 --experts nvfp4 --exclude 'model.layers.0.*'\n"
                "nibble quantize DIR OUT --format gptq --calibration train.txt --act-order\n"
                "nibble quantize FP8_DIR OUT --format bf16\n"
                "nibble quantize DIR OUT --format mxfp4 --overwrite --json\n",
                &make_quantize},
    CommandInfo{"eval ppl", "Token-level perplexity of a text",
                "nibble eval ppl DIR --text valid.txt\n"
                "nibble eval ppl DIR --text valid.txt --max-model-len 512 --stride 256 --json\n",
                &make_eval_ppl},
    CommandInfo{"eval kld", "KL divergence and top-1 agreement against a reference",
                "nibble eval kld DIR --quantization mxfp4 --text valid.txt --reference DIR\n"
                "nibble eval kld DIR --text valid.txt --save-reference bf16.kld\n"
                "nibble eval kld DIR --quantization nvfp4 --text valid.txt --reference bf16.kld --json\n",
                &make_eval_kld},
    CommandInfo{"eval table", "Size, perplexity, KL divergence and speed of quantisation schemes",
                "nibble eval table DIR --text valid.txt\n"
                "nibble eval table DIR --text valid.txt --schemes fp8,mxfp4,mxfp4:plain -o json\n"
                "nibble eval table DIR --text valid.txt --schemes mxfp4:attn=fp8,bf16:kv=bf16\n",
                &make_eval_table},
    CommandInfo{"bench decode", "Tokens per second while generating, against the read bandwidth",
                "nibble bench decode DIR\n"
                "nibble bench decode DIR -n 64 --depth 0,4096 --batch 1,4 -o json\n"
                "nibble bench decode --load-format dummy --config config.json --quantization mxfp4 "
                "--num-hidden-layers 9\n",
                &make_bench_decode},
    CommandInfo{
        "bench prefill", "Tokens per second while reading a prompt, against the arithmetic peak",
        "nibble bench prefill DIR -p 512,2048\n"
        "nibble bench prefill --load-format dummy --config config.json --quantization fp8 -p 512 -o md\n",
        &make_bench_prefill},
    CommandInfo{"bench load", "Seconds and GB/s of loading, by phase, against the page cache",
                "nibble bench load DIR\n"
                "nibble bench load DIR --repetitions 3 -o json\n",
                &make_bench_load},
    CommandInfo{"bench linear", "Linear layers against their floor and their definition",
                "nibble bench linear\n"
                "nibble bench linear --device cuda --scheme fp8_w8a8 --tokens 1,64,4096\n"
                "nibble bench linear --shapes 7168x16384,2x2048x7168 --scheme nvfp4 --json\n"
                "nibble bench linear --config config.json\n",
                &make_bench_linear},
    CommandInfo{"bench moe", "One mixture-of-experts layer against its floor and its definition",
                "nibble bench moe\n"
                "nibble bench moe --device cuda --scheme nvfp4 --tokens 1,16,256\n"
                "nibble bench moe --config config.json --scheme fp8 --gate --json\n",
                &make_bench_moe},
    CommandInfo{"bench mla", "Latent attention against its floor; the DeepSeek-R1 MLA challenge",
                "nibble bench mla\n"
                "nibble bench mla --lengths 1024,4096 --batch 1,64 --heads 128 --kv-cache-dtype bf16,fp8\n"
                "nibble bench mla --challenge --device cuda\n"
                "nibble bench mla --challenge --schemes mxfp4 --rounds 20 --json\n",
                &make_bench_mla},
    CommandInfo{"doctor", "What this machine offers, measured, with hints",
                "nibble doctor\nnibble doctor --json\n", &make_doctor},
    CommandInfo{"version", "Version, commit and compiler", "nibble version\nnibble version --json\n",
                &make_version},
};

}  // namespace

std::span<const CommandInfo> commands() { return kCommands; }

}  // namespace nibble::cli
