package diskcache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"
)

const (
	// blockSize is how many bytes of a blob share a checksum, and what a reader holds in memory.
	blockSize = 128 << 10
	sumSize   = crc32.Size
	// page is what the smallest file takes of a disk.
	page = 4 << 10
	// maxSize keeps the sizes of files from overflowing.
	maxSize = 1 << 60
	// idSize is the length of an id.
	idSize = 32
)

var errDamaged = errors.New("the checksum is wrong")

// identify returns what stands for a key in the names of files: a key is too long for one, and has slashes.
func identify(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:idSize/2])
}

// fileName returns the name of the file of an entry.
func fileName(id string, size int64) string { return id + "." + strconv.FormatInt(size, 10) }

// parseName takes a name of fileName apart.
func parseName(name string) (id string, size int64, ok bool) {
	id, digits, _ := strings.Cut(name, ".")
	size, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || size <= 0 || size > maxSize || len(id) != idSize || strings.Trim(id, "0123456789abcdef") != "" {
		return "", 0, false
	}
	return id, size, name == fileName(id, size)
}

// fileSize returns how long the file of a blob of size bytes is once it is whole.
func fileSize(size int64) int64 { return size + (size+blockSize-1)/blockSize*sumSize }

// diskSize returns what that file takes of the disk, roughly.
func diskSize(size int64) int64 { return (fileSize(size) + page - 1) / page * page }

// checksum is that of a block. It covers the file's name and the block's place, since after a power loss a file may have got
// the blocks of another one.
func checksum(name string, number int64, data []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	place := binary.BigEndian.AppendUint64([]byte(name), uint64(number))
	return crc32.Update(crc32.Checksum(place, table), table, data)
}

// writeBlock writes the last n bytes of a file's block with a checksum behind them. buffer has room for that.
func writeBlock(f *os.File, name string, number int64, buffer []byte, n int) error {
	block := binary.BigEndian.AppendUint32(buffer[:n], checksum(name, number, buffer[:n]))
	_, err := f.WriteAt(block, number*(blockSize+sumSize))
	return err
}

// readBlock reads a block of n bytes into buffer, which has room for the checksum too.
func readBlock(f *os.File, name string, number int64, buffer []byte, n int) error {
	block := buffer[:n+sumSize]
	if _, err := f.ReadAt(block, number*(blockSize+sumSize)); err == io.EOF {
		return fmt.Errorf("block %d: %w", number, io.ErrUnexpectedEOF)
	} else if err != nil {
		return err
	}
	if binary.BigEndian.Uint32(block[n:]) != checksum(name, number, block[:n]) {
		return fmt.Errorf("block %d: %w", number, errDamaged)
	}
	return nil
}
