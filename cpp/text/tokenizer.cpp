#include "text/tokenizer.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace lk::text {
namespace {

constexpr std::string_view kEscapedSpace = "\xE2\x96\x81";
constexpr size_t kCachedWords = 1 << 16;
constexpr size_t kCachedWordBytes = 64;
constexpr size_t kMostIdle = 4;                   // scratches that are kept; each may take about 15 MB
constexpr size_t kLargestText = size_t(1) << 20;  // whose scratch is kept: it takes some ten bytes for each of the text

struct ViewHash {
    using is_transparent = void;
    size_t operator()(std::string_view view) const { return hash_bytes(view); }
};

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
    std::string replaced;
    replaced.reserve(text.size() + text.size() / 4);
    size_t start = 0;
    for (size_t at; (at = text.find(from, start)) != std::string_view::npos; start = at + from.size()) {
        replaced.append(text.substr(start, at - start)).append(to);
    }
    return replaced.append(text.substr(start));
}

int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

// The byte that a token called <0xXX> stands for; other names stand for themselves.
std::string byte_piece(std::string_view name) {
    if (name.size() == 6 && name.starts_with("<0x") && hex_digit(name[3]) >= 0 && hex_digit(name[4]) >= 0) {
        return {static_cast<char>(hex_digit(name[3]) * 16 + hex_digit(name[4]))};
    }
    return std::string(name);
}

// Characters of the byte alphabet as bytes; any others as they are.
std::string alphabet_piece(std::string_view text) {
    std::string bytes;
    for (size_t at = 0; at < text.size();) {
        const Decoded decoded = decode_utf8(text.substr(at));
        const int byte = byte_of_character(decoded.code_point);
        if (byte >= 0) {
            bytes += static_cast<char>(byte);
        } else {
            bytes += text.substr(at, decoded.length);
        }
        at += decoded.length;
    }
    return bytes;
}

}  // namespace

struct Tokenizer::Scratch {
    MergeScratch merge;
    CodePoints code_points;
    std::optional<Pretokenizer> pretokenizer;
    std::unordered_map<std::string, Ids, ViewHash, std::equal_to<>> words;
};

// A scratch taken from the idle ones, or a new one, and handed back in the end: as long as few are idle, and if the
// text was not so large that its buffers would hold much memory for nothing.
class Tokenizer::Lease {
  public:
    Lease(const Tokenizer& owner, size_t n_byte) : owner_(owner), keeps_(n_byte <= kLargestText) {
        const std::lock_guard lock(owner.mutex_);
        if (!owner.idle_.empty()) {
            scratch_ = std::move(owner.idle_.back());
            owner.idle_.pop_back();
            return;
        }
        scratch_ = std::make_unique<Scratch>();
        if (owner.pre_ != nullptr) {
            scratch_->pretokenizer.emplace(*owner.pre_);
        }
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease() {
        if (!keeps_) return;
        const std::lock_guard lock(owner_.mutex_);
        if (owner_.idle_.size() < kMostIdle) owner_.idle_.push_back(std::move(scratch_));
    }
    Scratch& operator*() const { return *scratch_; }

  private:
    const Tokenizer& owner_;
    bool keeps_;
    std::unique_ptr<Scratch> scratch_;
};

Tokenizer::Tokenizer(std::shared_ptr<Vocabulary> vocabulary, std::vector<uint8_t> types, std::vector<float> scores,
                     std::string_view merges_buffer, std::span<const Span> merges, std::vector<int32_t> strip_left,
                     std::vector<int32_t> strip_right, Options options)
    : vocabulary_(std::move(vocabulary)), types_(std::move(types)), options_(std::move(options)) {
    const auto count = static_cast<size_t>(vocabulary_->n_tokens());
    if (types_.size() != count || (options_.spm && scores.size() != count)) {
        throw std::invalid_argument("a vocabulary needs one type, and for SPM one score, per token");
    }
    std::vector<SpecialTokens::Entry> entries;
    for (int32_t id = 0; id < vocabulary_->n_tokens(); ++id) {
        const auto type = static_cast<TokenType>(types_[id]);
        if (type == TokenType::Control || type == TokenType::Unknown || type == TokenType::UserDefined) {
            const auto among = [id](const std::vector<int32_t>& ids) {
                return std::find(ids.begin(), ids.end(), id) != ids.end();
            };
            entries.push_back({std::string(vocabulary_->text(id)), id, type != TokenType::UserDefined,
                               among(strip_left), among(strip_right)});
        }
    }
    specials_ = std::make_unique<SpecialTokens>(std::move(entries));
    if (options_.spm) {
        merger_ = std::make_unique<SpmMerger>(*vocabulary_, std::move(scores), options_.unknown);
        find_joints();
        return;
    }
    pre_ = find_pre_type(options_.pre);
    if (pre_ == nullptr) {
        throw std::invalid_argument("unknown pre-tokenizer: " + options_.pre);
    }
    options_.escape_spaces = pre_->escape_spaces;
    const bool newline_words = std::string_view(pre_->family) == "lines" && pre_->add_bos;
    merger_ = std::make_unique<BpeMerger>(*vocabulary_, merges_buffer, merges,
                                          BpeMerger::Options{pre_->raw, pre_->ignore_merges, newline_words});
}

Tokenizer::~Tokenizer() = default;

void Tokenizer::find_joints() {
    for (int32_t id = 0; id < vocabulary_->n_tokens(); ++id) {
        const std::string_view text = vocabulary_->text(id);
        for (size_t at = 1; (at = text.find(kEscapedSpace, at)) != std::string_view::npos; ++at) {
            joins_space_[static_cast<uint8_t>(text[at - 1])] = true;
        }
    }
    joins_space_[static_cast<uint8_t>(kEscapedSpace.back())] = true;
}

Ids Tokenizer::encode(std::string_view text, bool parse_special) const {
    if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()) / 4) {
        throw std::invalid_argument("a text of more than 512 MB cannot be tokenized at once");
    }
    const Lease lease(*this, text.size());
    Ids ids;
    ids.reserve(text.size() / 4 + 8);
    size_t start = 0;
    for (const SpecialTokens::Hit& hit : specials_->find(text, parse_special)) {
        encode_text(text.substr(start, hit.start - start), *lease, ids);
        ids.push_back(hit.id);
        start = hit.end;
    }
    encode_text(text.substr(start), *lease, ids);
    return ids;
}

void Tokenizer::encode_text(std::string_view text, Scratch& scratch, Ids& out) const {
    if (text.empty()) {
        return;
    }
    if (!options_.spm && !options_.escape_spaces) {
        encode_bpe(text, scratch, out);
        return;
    }
    std::string escaped = options_.spm && options_.space_prefix ? std::string(kEscapedSpace) : std::string();
    escaped += replace_all(text, " ", kEscapedSpace);
    options_.spm ? encode_spm(escaped, scratch, out) : encode_bpe(escaped, scratch, out);
}

void Tokenizer::encode_spm(std::string_view text, Scratch& scratch, Ids& out) const {
    size_t start = 0;
    for (size_t at = 1; (at = text.find(kEscapedSpace, at)) != std::string_view::npos; at += kEscapedSpace.size()) {
        if (!joins_space_[static_cast<uint8_t>(text[at - 1])]) {
            encode_word(text.substr(start, at - start), scratch, out);
            start = at;
        }
    }
    encode_word(text.substr(start), scratch, out);
}

void Tokenizer::encode_bpe(std::string_view text, Scratch& scratch, Ids& out) const {
    scratch.code_points.assign(text);
    const std::vector<uint32_t>& offsets = scratch.code_points.offsets;
    size_t start = 0;
    for (uint32_t end : scratch.pretokenizer->split(scratch.code_points)) {
        encode_word(text.substr(start, offsets[end] - start), scratch, out);
        start = offsets[end];
    }
}

void Tokenizer::encode_word(std::string_view word, Scratch& scratch, Ids& out) const {
    if (word.size() > kCachedWordBytes) {
        merger_->encode(word, scratch.merge, out);
        return;
    }
    auto found = scratch.words.find(word);
    if (found == scratch.words.end()) {
        if (scratch.words.size() >= kCachedWords) {
            scratch.words.clear();
        }
        Ids ids;
        merger_->encode(word, scratch.merge, ids);
        found = scratch.words.emplace(std::string(word), std::move(ids)).first;
    }
    out.insert(out.end(), found->second.begin(), found->second.end());
}

std::string Tokenizer::piece(int32_t id) const {
    if (id < 0 || id >= vocabulary_->n_tokens()) {
        throw std::out_of_range("no such token");
    }
    const std::string_view text = vocabulary_->text(id);
    switch (static_cast<TokenType>(types_[id])) {
        case TokenType::Control:
        case TokenType::Unknown:
        case TokenType::UserDefined:
            return std::string(text);
        case TokenType::Byte:
            return byte_piece(text);
        case TokenType::Normal:
            return options_.spm || options_.escape_spaces ? replace_all(text, kEscapedSpace, " ")
                                                          : alphabet_piece(text);
        default:
            return {};
    }
}

std::vector<uint32_t> Tokenizer::split(std::string_view text) const {
    if (pre_ == nullptr) {
        return {static_cast<uint32_t>(text.size())};
    }
    const Lease lease(*this, text.size());
    CodePoints& points = (*lease).code_points;
    points.assign(text);
    std::vector<uint32_t> ends;
    for (uint32_t end : (*lease).pretokenizer->split(points)) {
        ends.push_back(points.offsets[end]);
    }
    return ends;
}

}  // namespace lk::text
