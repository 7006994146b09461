package revocation

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// bbolt has no checksum on data pages, so every record carries its own:
//
//	version (1) | CRC-32C over key and the rest (4) | sequence (8) | JSON
//
// The sequence stands outside the JSON so that a million claims load without
// decoding one.
const (
	recordVersion = 1
	recordHeader  = 1 + 4 + 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged is wrapped by every error about a record that does not decode.
var ErrDamaged = errors.New("damaged record")

var errDamaged = ErrDamaged

func encodeRecord(key []byte, sequence uint64, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding a record: %w", err)
	}
	out := make([]byte, recordHeader, recordHeader+len(body))
	out[0] = recordVersion
	binary.BigEndian.PutUint64(out[5:], sequence)
	out = append(out, body...)
	binary.BigEndian.PutUint32(out[1:], recordSum(key, out))
	return out, nil
}

func recordSum(key, record []byte) uint32 {
	sum := crc32.Update(0, castagnoli, record[:1])
	sum = crc32.Update(sum, castagnoli, key)
	return crc32.Update(sum, castagnoli, record[5:])
}

// checkRecord verifies a record without decoding its body.
func checkRecord(key, record []byte) (uint64, error) {
	if len(record) < recordHeader {
		return 0, fmt.Errorf("%w: %d bytes", errDamaged, len(record))
	}
	if record[0] != recordVersion {
		return 0, fmt.Errorf("%w: unknown version %d", errDamaged, record[0])
	}
	if binary.BigEndian.Uint32(record[1:]) != recordSum(key, record) {
		return 0, fmt.Errorf("%w: checksum mismatch", errDamaged)
	}
	return binary.BigEndian.Uint64(record[5:]), nil
}

func decodeRecord(key, record []byte, v any) (uint64, error) {
	sequence, err := checkRecord(key, record)
	if err != nil {
		return 0, err
	}
	err = json.Unmarshal(record[recordHeader:], v)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return sequence, nil
}
