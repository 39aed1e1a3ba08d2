// Package journal keeps records in a file beyond the end of the process, for what is not worth a transaction.
//
// A record that was appended is there after kill -9. A power loss may take any of them: nothing is synced. What is damaged is never
// returned, nor is what follows it.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
)

// MaxRecord is the most bytes that a record may have.
const MaxRecord = 1 << 20

// header is in front of each record: its length and its CRC-32C, in four bytes each.
const header = 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Journal is an open file. Its methods may be called at the same time. One process may have it open. Close it.
type Journal struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int64
	err  error // that left the file in a state which is not known
}

// Open opens a journal, made if missing, and returns its records, the oldest first.
func Open(path string) (*Journal, [][]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, err
	}
	var content []byte
	info, err := f.Stat()
	if err == nil {
		content = make([]byte, info.Size())
		_, err = io.ReadFull(f, content)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read %s: %w", path, err), f.Close())
	}
	records, size := parse(content)
	j := &Journal{path: path, file: f, size: size}
	if err := j.cut(); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return j, records, nil
}

// parse returns the records at the begin of content that are whole, and how many bytes these have.
func parse(content []byte) (records [][]byte, size int64) {
	for rest := content; len(rest) >= header; {
		n, sum := binary.LittleEndian.Uint32(rest), binary.LittleEndian.Uint32(rest[4:])
		if n == 0 || n > MaxRecord || int(n) > len(rest)-header {
			break
		}
		record := rest[header : header+n : header+n] // who appends to it does not change the next one
		if crc32.Checksum(record, castagnoli) != sum {
			break
		}
		records, rest = append(records, record), rest[header+n:]
		size += header + int64(n)
	}
	return records, size
}

func frame(to, record []byte) []byte {
	to = binary.LittleEndian.AppendUint32(to, uint32(len(record)))
	to = binary.LittleEndian.AppendUint32(to, crc32.Checksum(record, castagnoli))
	return append(to, record...)
}

// cut drops what is behind the records.
func (j *Journal) cut() error {
	if err := j.file.Truncate(j.size); err != nil {
		return err
	}
	_, err := j.file.Seek(j.size, io.SeekStart)
	return err
}

// Append adds a record, which must not be empty. After an error it is not there.
func (j *Journal) Append(record []byte) error {
	if len(record) == 0 || len(record) > MaxRecord {
		return fmt.Errorf("a record of %d bytes", len(record))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return j.err
	}
	n, err := j.file.Write(frame(make([]byte, 0, header+len(record)), record))
	if err != nil {
		if failed := j.cut(); failed != nil {
			j.err = fmt.Errorf("%s is not usable since a write failed: %w", j.path, failed)
		}
		return err
	}
	j.size += int64(n)
	return nil
}

// Size is how many bytes the file has.
func (j *Journal) Size() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size
}

// Replace has the journal hold these records and no others. After an error it is as it was.
func (j *Journal) Replace(records [][]byte) (err error) {
	size := 0
	for _, r := range records {
		size += header + len(r)
	}
	content := make([]byte, 0, size)
	for _, r := range records {
		content = frame(content, r)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if errors.Is(j.err, os.ErrClosed) { // the file may be another process' by now
		return j.err
	}
	next := j.path + ".new"
	f, err := os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = os.Rename(next, j.path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(next))
	}
	_ = j.file.Close() // which nobody will read
	j.file, j.size, j.err = f, int64(len(content)), nil
	return nil
}

// Close closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.err = os.ErrClosed
	return j.file.Close()
}
