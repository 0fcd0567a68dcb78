#include "text/pretokenizer.h"

#include <map>
#include <memory>
#include <stdexcept>
#include <string>

#include "text/pattern.h"

namespace lk::text {
namespace {

using Pass = std::function<void(const CodePoints&, uint32_t, uint32_t, Ends&)>;

// Pieces that match, and what stands between them, as pieces of their own.
Pass matches(std::string_view source) {
    auto pattern = std::make_shared<Pattern>(source);
    return [pattern](const CodePoints& text, uint32_t start, uint32_t end, Ends& ends) {
        uint32_t emitted = start;
        for (uint32_t at = start; at < end;) {
            const auto length = static_cast<uint32_t>(pattern->match(text, at, end));
            if (length == 0) {
                ++at;
                continue;
            }
            if (at > emitted) {
                ends.push_back(at);
            }
            at = emitted = at + length;
            ends.push_back(at);
        }
        if (emitted < end) {
            ends.push_back(end);
        }
    };
}

Pass words(WordRules rules) {
    return [rules](const CodePoints& text, uint32_t start, uint32_t end, Ends& ends) {
        split_words(text, start, end, rules, ends);
    };
}

Pass cases(CaseRules rules) {
    return [rules](const CodePoints& text, uint32_t start, uint32_t end, Ends& ends) {
        split_cases(text, start, end, rules, ends);
    };
}

// The patterns are facts of the published models, read from their tokenizer.json files and from llama.cpp's table.
constexpr std::string_view kChinese = R"([\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
constexpr std::string_view kHanKana = R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)";
constexpr std::string_view kAsciiWord = R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)";
constexpr std::string_view kDeepseekWord = R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+)";
constexpr std::string_view kSpaceTail = R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBloom = R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{0964}\x{06D4}\x{060C})]+)";
constexpr std::string_view kExaoneMoe =
    R"((?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|)"
    R"([^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|)"
    R"(\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kYoutuScripts =
    R"([\x{AC00}-\x{D7A3}\x{3131}-\x{318E}]+|)"
    R"([\x{FF01}\x{2026}\x{201C}\x{201D}\x{2018}\x{2019}\x{2014}\x{FF1A}\x{FF1B}\x{FF0C}\x{3001}-\x{303F})"
    R"(\x{FE30}-\x{FE4F}]+|[\x{3105}-\x{312F}]+|[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)";
constexpr std::string_view kAfmoeScripts =
    R"([\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{F900}-\x{FAFF}\x{3040}-\x{309F}\x{30A0}-\x{30FF}\x{FF65}-\x{FF9F})"
    R"(\x{2F00}-\x{2FDF}\x{0E40}-\x{0E7F}\x{0E80}-\x{0EFF}\x{1780}-\x{17FF}\x{1000}-\x{109F}\x{AA60}-\x{AA7F})"
    R"(\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}]+)";
// The cased letters of deepseek-llm's own table.
constexpr std::string_view kDeepseekLetters =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF})"
    R"(\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1})"
    R"(\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5})"
    R"(\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A})"
    R"(\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B})"
    R"(\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC})"
    R"(\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107})"
    R"(\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134})"
    R"(\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4})"
    R"(\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787})"
    R"(\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A})"
    R"(\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2})"
    R"(\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)";

std::string join(std::initializer_list<std::string_view> parts) {
    std::string joined;
    for (std::string_view part : parts) {
        joined += part;
    }
    return joined;
}

std::vector<Pass> deepseek_v3(std::string_view after_words) {
    return {matches(R"(\p{N}{1,3})"), matches(kHanKana), matches(join({kAsciiWord, kDeepseekWord, after_words}))};
}

using Maker = std::function<std::vector<Pass>()>;

std::map<std::string_view, Maker> word_families() {
    return {
        {"gpt2", [] { return std::vector<Pass>{split_gpt2}; }},
        {"digits-gpt2", [] { return std::vector<Pass>{matches(R"(\p{N})"), split_gpt2}; }},
        {"llama3", [] { return std::vector<Pass>{words({})}; }},
        {"jais2", [] { return std::vector<Pass>{words({.halving_spaces = true})}; }},
        {"qwen2", [] { return std::vector<Pass>{words({.digits = 1})}; }},
        {"qwen35", [] { return std::vector<Pass>{words({.digits = 1, .marks = true})}; }},
        {"ufakzeka", [] { return std::vector<Pass>{words({.digits = 1, .contractions = false})}; }},
        {"seed-coder", [] { return std::vector<Pass>{words({.digits = 1, .newlines_after = false})}; }},
        {"laguna", [] { return std::vector<Pass>{split_lines, words({.digits = 1})}; }},
        {"minicpm5", [] { return std::vector<Pass>{matches(R"(\p{N}{1,3})"), words({.digits = UINT32_MAX})}; }},
        {"kimi", [] { return std::vector<Pass>{split_kimi}; }},
        {"tekken", [] { return std::vector<Pass>{cases({.digits = 1, .contractions = false})}; }},
        {"gpt4o", [] { return std::vector<Pass>{cases({})}; }},
        {"granite", [] { return std::vector<Pass>{cases({.marks = true})}; }},
        {"aya", [] { return std::vector<Pass>{split_digits, cases({.marks = true, .cases = false})}; }},
        {"youtu",
         [] { return std::vector<Pass>{matches(kYoutuScripts), cases({.digits = 1, .marks = true, .cases = false})}; }},
    };
}

std::map<std::string_view, Maker> other_families() {
    return {
        {"default",
         [] {
             return std::vector<Pass>{matches(R"([\p{P}$+<=>^~|]+)"), split_gpt2, matches(R"(\p{N}+)"),
                                      matches("[0-9][0-9][0-9]")};
         }},
        {"falcon",
         [] { return std::vector<Pass>{matches(R"([\p{P}$+<=>^~|`]+)"), split_gpt2, matches("[0-9][0-9][0-9]")}; }},
        {"deepseek-llm",
         [] {
             return std::vector<Pass>{
                 matches(R"([\r\n])"),
                 matches(kDeepseekLetters),
                 matches(R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)"),
                 split_trailing_space,
                 matches(kChinese),
                 matches(R"(\p{N}+)")};
         }},
        {"deepseek-coder",
         [] {
             return std::vector<Pass>{matches(R"([\r\n])"), matches(R"(\s?\p{L}+)"), matches(R"(\s?\p{P}+)"),
                                      matches(kChinese), matches(R"(\p{N})")};
         }},
        {"deepseek-v3", [] { return deepseek_v3(R"([\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"); }},
        {"spark",
         [] {
             std::vector<Pass> passes = deepseek_v3(R"(|[\r\n]|\s+(?!\S)|\s+)");
             passes.push_back(matches(R"(\p{N})"));
             return passes;
         }},
        {"afmoe",
         [] {
             return std::vector<Pass>{split_digits, matches(kAfmoeScripts),
                                      matches(join({kAsciiWord, kDeepseekWord, R"([\r\n]*|)", kSpaceTail}))};
         }},
        {"bloom", [] { return std::vector<Pass>{matches(kBloom)}; }},
        {"viking", [] { return std::vector<Pass>{matches(kBloom), matches(R"(\p{N})")}; }},
        {"chameleon",
         [] {
             return std::vector<Pass>{matches("<sentinel:[0-9]+>"),       matches("IMGIMG[A-I]{1,4}Z"),
                                      matches(R"([\t\n]|    |  )"),       matches(R"(\p{N})"),
                                      matches(R"([\p{P}!-/:-@\[-`{-~])"), split_gpt2};
         }},
        {"superbpe", [] { return std::vector<Pass>{matches(R"(\p{N}+)"), split_thousands}; }},
        {"exaone-moe", [] { return std::vector<Pass>{matches(kExaoneMoe)}; }},
        {"lines", [] { return std::vector<Pass>{split_lines}; }},
        {"whitespace", [] { return std::vector<Pass>{matches(R"(\S+)")}; }},
    };
}

}  // namespace

const PreType* find_pre_type(std::string_view name) {
    for (const PreType& type : pre_types()) {
        if (name == type.name) {
            return &type;
        }
    }
    return nullptr;
}

Pretokenizer::Pretokenizer(const PreType& type) {
    for (const auto& families : {word_families(), other_families()}) {
        if (const auto found = families.find(type.family); found != families.end()) {
            passes_ = found->second();
            return;
        }
    }
    throw std::invalid_argument(std::string("no splitter is called ") + type.family);
}

const Ends& Pretokenizer::split(const CodePoints& text) {
    ends_.assign(1, static_cast<uint32_t>(text.size()));
    for (const Pass& pass : passes_) {
        next_.clear();
        uint32_t start = 0;
        for (uint32_t end : ends_) {
            pass(text, start, end, next_);
            start = end;
        }
        ends_.swap(next_);
    }
    return ends_;
}

}  // namespace lk::text
