#include "formats/gguf.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>
#include <utility>

#include "formats/types.h"

namespace lk::formats {
namespace {

constexpr uint64_t kMaxKeyBytes = 65535;     // the specification's limit for keys
constexpr uint64_t kMaxNameBytes = 4096;     // the specification says 64; real files go above it
constexpr uint64_t kMaxAlignment = 1 << 20;  // far above any in use
constexpr uint32_t kMaxDims = 4;
// Records take more memory than the file needs to describe them, so their number is bounded: together they stay under
// 20 MiB. Large models have some thousands of tensors and some hundreds of keys.
constexpr uint64_t kMaxRecords = 1 << 16;

[[noreturn]] void fail(uint64_t offset, const std::string& message) {
    throw ParseError("at byte " + std::to_string(offset) + ": " + message);
}

std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (char c : text.substr(0, 80)) out += (c >= 32 && c < 127) ? c : '?';
    return out + "\"";
}

class Cursor {
  public:
    Cursor(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    uint64_t at() const { return at_; }
    uint64_t left() const { return size_ - at_; }

    void need(uint64_t n, const char* what) const {
        if (n > left())
            fail(at_, std::string(what) + " needs " + std::to_string(n) + " bytes, the file ends after " +
                          std::to_string(left()));
    }

    void skip(uint64_t n, const char* what) {
        need(n, what);
        at_ += n;
    }

    template <class T>
    T read(const char* what) {
        need(sizeof(T), what);
        T value;
        std::memcpy(&value, data_ + at_, sizeof(T));
        at_ += sizeof(T);
        return value;
    }

    // A count or length: 32 bits wide in version 1, 64 later.
    uint64_t read_count(uint32_t bytes, const char* what) {
        return bytes == 4 ? read<uint32_t>(what) : read<uint64_t>(what);
    }

    std::string_view read_string(uint32_t length_bytes, uint64_t limit, const char* what) {
        const uint64_t start = at_, n = read_count(length_bytes, what);
        if (n > limit)
            fail(start, std::string(what) + " has " + std::to_string(n) + " bytes, more than " + std::to_string(limit));
        need(n, what);
        const std::string_view text(reinterpret_cast<const char*>(data_) + at_, size_t(n));
        at_ += n;
        return text;
    }

  private:
    const uint8_t* data_;
    uint64_t size_, at_ = 0;
};

uint32_t scalar_bytes(uint32_t type) {
    switch (type) {
        case UINT8:
        case INT8:
        case BOOL:
            return 1;
        case UINT16:
        case INT16:
            return 2;
        case UINT32:
        case INT32:
        case FLOAT32:
            return 4;
        case UINT64:
        case INT64:
        case FLOAT64:
            return 8;
        default:
            return 0;
    }
}

void read_string_array(Cursor& cursor, uint32_t length_bytes, MetadataRecord* record) {
    const uint64_t base = cursor.at() + length_bytes;  // where the first text starts
    record->offset = base;
    if (record->count > cursor.left() / length_bytes)
        fail(cursor.at(), "array " + quoted(record->key) + " claims " + std::to_string(record->count) +
                              " strings, the file ends after " + std::to_string(cursor.left()) + " bytes");
    record->starts.reserve(size_t(record->count) + 1);
    for (uint64_t i = 0; i < record->count; ++i) {
        const uint64_t start = cursor.at() + length_bytes - base;
        if (start > std::numeric_limits<uint32_t>::max()) fail(cursor.at(), "array of strings larger than 4 GiB");
        cursor.read_string(length_bytes, std::numeric_limits<uint32_t>::max(), "string in array");
        record->starts.push_back(uint32_t(start));
    }
    const uint64_t end = cursor.at() + length_bytes - base;
    if (end > std::numeric_limits<uint32_t>::max()) fail(cursor.at(), "array of strings larger than 4 GiB");
    record->starts.push_back(uint32_t(end));
}

void read_array(Cursor& cursor, uint32_t length_bytes, MetadataRecord* record) {
    const uint64_t start = cursor.at();
    record->element_type = cursor.read<uint32_t>("type of array elements");
    record->count = cursor.read_count(length_bytes, "count of array elements");
    record->offset = cursor.at();
    if (record->element_type == STRING) return read_string_array(cursor, length_bytes, record);
    const uint32_t bytes = scalar_bytes(record->element_type);
    if (bytes == 0)
        fail(start, "array " + quoted(record->key) + " has elements of type " + std::to_string(record->element_type) +
                        "; only numbers, booleans and strings can be in an array");
    if (record->count > cursor.left() / bytes)
        fail(start, "array " + quoted(record->key) + " claims " + std::to_string(record->count) + " elements of " +
                        std::to_string(bytes) + " bytes, the file ends after " + std::to_string(cursor.left()));
    cursor.skip(record->count * bytes, "array");
}

MetadataRecord read_metadata(Cursor& cursor, uint32_t length_bytes) {
    MetadataRecord record{};
    const uint64_t start = cursor.at();
    record.key = cursor.read_string(length_bytes, kMaxKeyBytes, "metadata key");
    if (record.key.empty()) fail(start, "empty metadata key");
    record.type = cursor.read<uint32_t>("type of metadata value");
    record.count = 1;
    record.offset = cursor.at();
    if (record.type == STRING) {
        const std::string_view text = cursor.read_string(length_bytes, UINT64_MAX, "metadata string");
        record.count = text.size();
        record.offset = cursor.at() - text.size();
    } else if (record.type == ARRAY) {
        read_array(cursor, length_bytes, &record);
    } else if (const uint32_t bytes = scalar_bytes(record.type); bytes != 0) {
        cursor.skip(bytes, "metadata value");
    } else {
        fail(start, "metadata " + quoted(record.key) + " has unknown type " + std::to_string(record.type));
    }
    return record;
}

TensorRecord read_tensor(Cursor& cursor, uint32_t version, uint32_t length_bytes) {
    TensorRecord record{};
    const uint64_t start = cursor.at();
    record.name = cursor.read_string(length_bytes, kMaxNameBytes, "tensor name");
    const std::string name = "tensor " + quoted(record.name);
    if (record.name.empty()) fail(start, "empty tensor name");
    record.n_dim = cursor.read<uint32_t>("number of dimensions");
    if (record.n_dim < 1 || record.n_dim > kMaxDims)
        fail(start, name + " has " + std::to_string(record.n_dim) + " dimensions; 1 to 4 are possible");
    uint64_t n_value = 1;
    for (uint32_t i = 0; i < record.n_dim; ++i) {
        const uint64_t size = cursor.read_count(version == 1 ? 4 : 8, "dimension");
        if (size == 0 || size > uint64_t(std::numeric_limits<int64_t>::max()) / n_value)
            fail(start, name + " has an impossible size " + std::to_string(size));
        record.dims[i] = size;
        n_value *= size;
    }
    record.type = cursor.read<uint32_t>("tensor type");
    record.offset = cursor.read<uint64_t>("tensor offset");
    const TypeTraits* type = traits(record.type);
    if (type == nullptr) fail(start, name + " has unknown type " + std::to_string(record.type));
    const uint64_t block_size = uint64_t(type->block_size), type_size = uint64_t(type->type_size);
    if (record.dims[0] % block_size != 0)
        fail(start, name + " has rows of " + std::to_string(record.dims[0]) + " values in blocks of " +
                        std::to_string(block_size));
    const uint64_t n_block = n_value / block_size;
    if (n_block > uint64_t(std::numeric_limits<int64_t>::max()) / type_size)
        fail(start, name + " is larger than any file");
    record.n_bytes = n_block * type_size;
    return record;
}

uint64_t read_alignment(const Header& header, const uint8_t* data) {
    for (const MetadataRecord& record : header.metadata) {
        if (record.key != "general.alignment") continue;
        if (record.type != UINT32) fail(record.offset, "general.alignment is no uint32");
        uint32_t value;
        std::memcpy(&value, data + record.offset, sizeof value);
        if (value == 0 || (value & (value - 1)) != 0 || value > kMaxAlignment)
            fail(record.offset, "general.alignment is " + std::to_string(value) + "; a power of two is needed");
        return value;
    }
    return 32;
}

// Where in the file a name lies.
uint64_t place_of(std::string_view name, const uint8_t* data) {
    return uint64_t(reinterpret_cast<const uint8_t*>(name.data()) - data);
}

// Names must differ. Sorting views needs no memory beyond one pointer a name.
template <class Record, class Name>
void refuse_duplicates(const std::vector<Record>& records, Name name, const char* what, const uint8_t* data) {
    std::vector<std::string_view> names;
    names.reserve(records.size());
    for (const Record& record : records) names.push_back(name(record));
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    if (twice == names.end()) return;
    const uint64_t place = std::max(place_of(*twice, data), place_of(*std::next(twice), data));
    fail(place, std::string(what) + " " + quoted(*twice) + " occurs twice");
}

void place_tensors(Header* header, const uint8_t* data, uint64_t size) {
    std::vector<std::pair<uint64_t, const TensorRecord*>> order;
    order.reserve(header->tensors.size());
    for (TensorRecord& tensor : header->tensors) {
        const std::string name = "tensor " + quoted(tensor.name);
        if (tensor.offset % header->alignment != 0)
            fail(place_of(tensor.name, data), name + " starts at offset " + std::to_string(tensor.offset) +
                                                  ", no multiple of the alignment " +
                                                  std::to_string(header->alignment));
        const uint64_t room = size > header->data_offset ? size - header->data_offset : 0;
        if (tensor.offset > room || tensor.n_bytes > room - tensor.offset)
            fail(place_of(tensor.name, data), name + " needs " + std::to_string(tensor.n_bytes) + " bytes at byte " +
                                                  std::to_string(header->data_offset) + " + " +
                                                  std::to_string(tensor.offset) + ", the file has " +
                                                  std::to_string(size) + " bytes");
        tensor.offset += header->data_offset;
        order.emplace_back(tensor.offset, &tensor);
    }
    std::sort(order.begin(), order.end());
    for (size_t i = 1; i < order.size(); ++i)
        if (order[i - 1].first + order[i - 1].second->n_bytes > order[i].first)
            fail(order[i].first,
                 "tensors " + quoted(order[i - 1].second->name) + " and " + quoted(order[i].second->name) + " overlap");
}

}  // namespace

Header parse_gguf(const uint8_t* data, size_t size) {
    Header header;
    Cursor cursor(data, size);
    if (size < 4 || std::memcmp(data, "GGUF", 4) != 0) fail(0, "no GGUF file: it does not start with the letters GGUF");
    cursor.skip(4, "magic");
    header.version = cursor.read<uint32_t>("version");
    if (header.version != 0 && (header.version & 0xFFFF) == 0)
        fail(4, "a big-endian GGUF file; only little-endian files can be read");
    if (header.version < 1 || header.version > 3)
        fail(4, "GGUF version " + std::to_string(header.version) + "; versions 1 to 3 can be read");
    header.length_bytes = header.version == 1 ? 4 : 8;
    const uint64_t n_tensor = cursor.read_count(header.length_bytes, "number of tensors");
    const uint64_t n_metadata = cursor.read_count(header.length_bytes, "number of metadata entries");
    if (n_tensor > kMaxRecords || n_metadata > kMaxRecords)
        fail(8, "the file claims " + std::to_string(n_tensor) + " tensors and " + std::to_string(n_metadata) +
                    " metadata entries; at most " + std::to_string(kMaxRecords) + " of each can be read");
    for (uint64_t i = 0; i < n_metadata; ++i) header.metadata.push_back(read_metadata(cursor, header.length_bytes));
    for (uint64_t i = 0; i < n_tensor; ++i)
        header.tensors.push_back(read_tensor(cursor, header.version, header.length_bytes));
    refuse_duplicates(header.metadata, [](const MetadataRecord& r) { return r.key; }, "metadata key", data);
    refuse_duplicates(header.tensors, [](const TensorRecord& r) { return r.name; }, "tensor", data);
    header.alignment = read_alignment(header, data);
    header.data_offset = (cursor.at() + header.alignment - 1) / header.alignment * header.alignment;
    place_tensors(&header, data, size);
    return header;
}

}  // namespace lk::formats
