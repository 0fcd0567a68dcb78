#include "text/merger.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "text/unicode.h"

namespace lk::text {
namespace {

bool is_printable(int byte) {
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// Bytes without a printable character of their own get those from U+0100 on, in order.
struct Alphabet {
    uint32_t character[256];
    int byte[0x180];

    Alphabet() {
        std::fill(std::begin(byte), std::end(byte), -1);
        uint32_t next = 0x100;
        for (int b = 0; b < 256; ++b) {
            character[b] = is_printable(b) ? static_cast<uint32_t>(b) : next++;
            byte[character[b]] = b;
        }
    }
};

const Alphabet& alphabet() {
    static const Alphabet made;
    return made;
}

std::string byte_name(int byte) {
    constexpr char kHex[] = "0123456789ABCDEF";
    return {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
}

void split_characters(std::string_view word, const Vocabulary& vocabulary, std::vector<MergeSymbol>& symbols) {
    symbols.clear();
    for (size_t at = 0; at < word.size();) {
        const size_t size = std::min(utf8_length(static_cast<uint8_t>(word[at])), word.size() - at);
        const auto index = static_cast<int32_t>(symbols.size());
        symbols.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(size),
                           vocabulary.find(word.substr(at, size)), index - 1, index + 1});
        at += size;
    }
    if (!symbols.empty()) {
        symbols.back().next = -1;
    }
}

}  // namespace

std::string byte_character(uint8_t byte) {
    const uint32_t c = alphabet().character[byte];
    if (c < 0x80) {
        return {static_cast<char>(c)};
    }
    return {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
}

int byte_of_character(uint32_t code_point) {
    return code_point < 0x180 ? alphabet().byte[code_point] : -1;
}

template <class Find>
void Merger::merge(MergeScratch& scratch, const Find& find) {
    auto& symbols = scratch.symbols;
    auto& queue = scratch.queue;
    queue.clear();
    const auto consider = [&](int32_t left, int32_t right) {
        Candidate candidate{0, left, right, symbols[left].size + symbols[right].size, -1};
        if (find(symbols[left], symbols[right], candidate)) {
            queue.push_back(candidate);
            return true;
        }
        return false;
    };
    for (int32_t i = 1; i < static_cast<int32_t>(symbols.size()); ++i) {
        consider(i - 1, i);
    }
    std::make_heap(queue.begin(), queue.end());
    while (!queue.empty()) {
        std::pop_heap(queue.begin(), queue.end());
        const Candidate best = queue.back();
        queue.pop_back();
        MergeSymbol& left = symbols[best.left];
        MergeSymbol& right = symbols[best.right];
        if (left.size == 0 || right.size == 0 || left.size + right.size != best.size) {
            continue;
        }
        left.size = best.size;
        left.id = best.result;
        left.next = right.next;
        right.size = 0;
        if (right.next >= 0) {
            symbols[right.next].previous = best.left;
        }
        if (left.previous >= 0 && consider(left.previous, best.left)) {
            std::push_heap(queue.begin(), queue.end());
        }
        if (left.next >= 0 && consider(best.left, left.next)) {
            std::push_heap(queue.begin(), queue.end());
        }
    }
}

BpeMerger::BpeMerger(Vocabulary& vocabulary, std::string_view buffer, std::span<const Span> merges, Options options)
    : vocabulary_(vocabulary), options_(options), table_(std::bit_ceil(merges.size() * 2 + 16)) {
    std::string merged;
    for (size_t rank = 0; rank < merges.size(); ++rank) {
        if (merges[rank].size > buffer.size() || merges[rank].start > buffer.size() - merges[rank].size) {
            throw std::invalid_argument("a merge's text lies outside its buffer");
        }
        const std::string_view text = buffer.substr(merges[rank].start, merges[rank].size);
        const size_t space = text.find(' ', 1);
        if (space == std::string_view::npos || space + 1 == text.size()) {
            continue;  // no pair, so nothing that could be merged
        }
        merged.assign(text.substr(0, space)).append(text.substr(space + 1));
        const int32_t left = vocabulary.intern(text.substr(0, space));
        const int32_t right = vocabulary.intern(text.substr(space + 1));
        add(left, right, static_cast<int32_t>(rank), vocabulary.intern(merged));
    }
    for (int byte = 0; byte < 256; ++byte) {
        const char single = static_cast<char>(byte);
        byte_symbol_[byte] = vocabulary.find(byte_character(static_cast<uint8_t>(byte)));
        const int32_t token = vocabulary.find(options.raw ? byte_name(byte) : std::string(1, single));
        const bool usable =
            token < vocabulary.n_tokens() && (options.raw || is_printable(byte)) && (options.raw || byte < 0x80);
        byte_fallback_[byte] = usable ? token : -1;
    }
}

const BpeMerger::Merge* BpeMerger::find(int32_t left, int32_t right) const {
    const uint64_t pair = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    const size_t mask = table_.size() - 1;
    for (size_t at = (pair * 0x9E3779B97F4A7C15u >> 32) & mask;; at = (at + 1) & mask) {
        if (table_[at].pair == pair) {
            return &table_[at];
        }
        if (table_[at].pair == UINT64_MAX) {
            return nullptr;
        }
    }
}

void BpeMerger::add(int32_t left, int32_t right, int32_t rank, int32_t result) {
    const uint64_t pair = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    const size_t mask = table_.size() - 1;
    size_t at = (pair * 0x9E3779B97F4A7C15u >> 32) & mask;
    while (table_[at].pair != UINT64_MAX && table_[at].pair != pair) {
        at = (at + 1) & mask;
    }
    if (table_[at].pair == UINT64_MAX) {  // a repeated merge keeps its first rank
        table_[at] = {pair, rank, result};
    }
}

int32_t BpeMerger::whole_word(std::string_view word) const {
    const bool newlines = options_.newline_words && word.find_first_not_of('\n') == std::string_view::npos;
    if (!options_.ignore_merges && !newlines) {
        return -1;
    }
    int32_t id;
    if (options_.raw) {
        id = vocabulary_.find(word);
    } else {
        std::string encoded;
        for (char byte : word) {
            encoded += byte_character(static_cast<uint8_t>(byte));
        }
        id = vocabulary_.find(encoded);
    }
    return id < vocabulary_.n_tokens() ? id : -1;
}

void BpeMerger::encode(std::string_view word, MergeScratch& scratch, Ids& out) const {
    if (const int32_t id = whole_word(word); id >= 0) {
        out.push_back(id);
        return;
    }
    auto& symbols = scratch.symbols;
    if (options_.raw) {
        split_characters(word, vocabulary_, symbols);
    } else {
        symbols.resize(word.size());
        const auto count = static_cast<int32_t>(word.size());
        for (int32_t i = 0; i < count; ++i) {
            symbols[i] = {static_cast<uint32_t>(i), 1, byte_symbol_[static_cast<uint8_t>(word[i])], i - 1,
                          i + 1 < count ? i + 1 : -1};
        }
    }
    merge(scratch, [this](const MergeSymbol& left, const MergeSymbol& right, Candidate& candidate) {
        if (left.id < 0 || right.id < 0) {
            return false;
        }
        const Merge* found = find(left.id, right.id);
        if (found == nullptr) {
            return false;
        }
        candidate.order = found->rank;
        candidate.result = found->result;
        return true;
    });
    for (const MergeSymbol& symbol : symbols) {
        if (symbol.size > 0) {
            emit(word, symbol, out);
        }
    }
}

void BpeMerger::emit(std::string_view word, const MergeSymbol& symbol, Ids& out) const {
    if (symbol.id >= 0 && symbol.id < vocabulary_.n_tokens()) {
        out.push_back(symbol.id);
        return;
    }
    for (char byte : word.substr(symbol.start, symbol.size)) {
        if (const int32_t id = byte_fallback_[static_cast<uint8_t>(byte)]; id >= 0) {
            out.push_back(id);
        }
    }
}

SpmMerger::SpmMerger(const Vocabulary& vocabulary, std::vector<float> scores, int32_t unknown)
    : vocabulary_(vocabulary), scores_(std::move(scores)) {
    for (int byte = 0; byte < 256; ++byte) {
        int32_t id = vocabulary.find(byte_name(byte));
        if (id < 0) {
            id = vocabulary.find(std::string(1, static_cast<char>(byte)));
        }
        byte_token_[byte] = id < 0 ? unknown : id;
    }
}

void SpmMerger::encode(std::string_view word, MergeScratch& scratch, Ids& out) const {
    split_characters(word, vocabulary_, scratch.symbols);
    merge(scratch, [&](const MergeSymbol& left, const MergeSymbol& right, Candidate& candidate) {
        candidate.result = vocabulary_.find(word.substr(left.start, left.size + right.size));
        if (candidate.result < 0) {
            return false;
        }
        candidate.order = -static_cast<double>(scores_[candidate.result]);
        return true;
    });
    for (const MergeSymbol& symbol : scratch.symbols) {
        if (symbol.size > 0 && symbol.id >= 0) {
            out.push_back(symbol.id);
        }
        for (uint32_t i = 0; symbol.id < 0 && i < symbol.size; ++i) {
            if (const int32_t id = byte_token_[static_cast<uint8_t>(word[symbol.start + i])]; id >= 0) {
                out.push_back(id);
            }
        }
    }
}

}  // namespace lk::text
