package ledger

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
)

// journal is where records wait on disk while the store cannot be written: frames of
//
//	length uint32 | crc32c uint32 | JSON of the Record
//
// (little endian), ended by a length of zero, a checksum that does not fit, or the end of
// the file. The file is filled with zeros beforehand, so that it works on
// a disk that has become full. Only the committer writes and reads it. A nil journal is empty.
type journal struct {
	file  *os.File
	sync  bool  // fsync each append
	done  int64 // where the frames begin that are not in the store yet
	end   int64 // where the next frame goes
	count atomic.Int64
}

const (
	journalReserve = 1 << 20   // bytes written beforehand: some 2,500 records
	journalLeast   = 16 << 10  // bytes: less is not worth taking
	journalMax     = 256 << 20 // bytes: beyond that records wait in memory
	frameHeader    = 8
	frameMax       = 32 << 10 // bytes of one record; prepared keeps them far below
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maxJournals is how many processes may keep their journals side by side.
const maxJournals = 64

// openJournal opens or makes the journal at path and counts what it holds. Where another process
// has it open, path.2 is taken, and so on: two must not write to one file. Journals of that
// row that nobody has open are left behind by the dead; they come back too, for their records.
func openJournal(path string, sync bool) (own *journal, orphans []*journal, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%w: %w", ErrJournal, err), own.close())
			for _, j := range orphans {
				err = errors.Join(err, j.close())
			}
		}
	}()
	for n := 1; n <= maxJournals; n++ {
		name := path
		if n > 1 {
			name = fmt.Sprintf("%s.%d", path, n)
		}
		if _, absent := os.Stat(name); absent != nil && own != nil {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return own, orphans, err
		}
		free, err := tryLock(f)
		if err != nil || !free {
			if err = errors.Join(err, f.Close()); err != nil {
				return own, orphans, err
			}
			continue
		}
		if gone, err := removed(f); err != nil || gone {
			if err = errors.Join(err, f.Close()); err != nil {
				return own, orphans, err
			}
			n-- // whoever had it has just replayed and removed it: once more
			continue
		}
		j := &journal{file: f, sync: sync}
		if own == nil {
			own = j
		} else {
			orphans = append(orphans, j)
		}
		if err := j.prepare(); err != nil {
			return own, orphans, err
		}
	}
	if own == nil {
		return nil, nil, fmt.Errorf("%d processes use it already", maxJournals)
	}
	return own, orphans, nil
}

// removed tells whether f is no longer the file of its name.
func removed(f *os.File) (bool, error) {
	have, err := f.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(f.Name())
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	return err == nil && !os.SameFile(have, named), err
}

// remove closes an empty journal for good.
func (j *journal) remove() error { return errors.Join(os.Remove(j.file.Name()), j.close()) }

func (j *journal) prepare() error {
	for {
		chunk, next, err := j.read(j.end, maxBatch)
		if err != nil {
			return err
		}
		if len(chunk) == 0 {
			break
		}
		j.count.Add(int64(len(chunk)))
		j.end = next
	}
	return j.reserve()
}

// reserve takes space beforehand: journalReserve, or less where the disk has not twice as much, for
// the store itself needs room too. A full disk is no reason not to start.
func (j *journal) reserve() error {
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	for want := int64(journalReserve); want > size && want >= journalLeast; want /= 2 {
		_, err := j.file.WriteAt(make([]byte, 2*want-size), size)
		if err == nil {
			return errors.Join(j.file.Truncate(want), j.file.Sync())
		}
		if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
			return err
		}
		if err := j.file.Truncate(size); err != nil {
			return err
		}
	}
	return nil
}

// append writes records behind the others; all of them, or none.
func (j *journal) append(work []*pending) error {
	var buf []byte
	for _, p := range work {
		body, err := json.Marshal(&p.record)
		if err != nil {
			return fmt.Errorf("append to journal: %w", err)
		}
		buf = appendFrame(buf, body)
	}
	if j.end+int64(len(buf)) > journalMax {
		return fmt.Errorf("append to journal: larger than %d bytes", int64(journalMax))
	}
	_, err := j.file.WriteAt(buf, j.end)
	if err == nil && j.sync {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("append to journal: %w", err) // the next append overwrites what was written
	}
	j.end += int64(len(buf))
	j.count.Add(int64(len(work)))
	return nil
}

func appendFrame(buf, body []byte) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(body)))
	buf = binary.LittleEndian.AppendUint32(buf, crc32.Checksum(body, castagnoli))
	return append(buf, body...)
}

// read returns up to n records from off on, and where the next one begins.
func (j *journal) read(off int64, n int) (chunk []Record, next int64, err error) {
	r := io.NewSectionReader(j.file, off, journalMax-off)
	for len(chunk) < n {
		rec, size, err := readFrame(r)
		if errors.Is(err, errFrameEnd) {
			break
		}
		if err != nil {
			return nil, off, err
		}
		off += size
		chunk = append(chunk, rec)
	}
	return chunk, off, nil
}

// stored notes that the store has what read returned last. Until reset a crash brings it back, which changes nothing.
func (j *journal) stored(chunk []Record, next int64) {
	j.done = next
	j.count.Add(-int64(len(chunk)))
}

// errFrameEnd says that no whole frame follows. A torn frame is such an end: its record
// was never acknowledged.
var errFrameEnd = errors.New("end of journal")

func readFrame(r io.Reader) (Record, int64, error) {
	var head [frameHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Record{}, 0, frameError(err)
	}
	length := binary.LittleEndian.Uint32(head[:4])
	if length == 0 || length > frameMax {
		return Record{}, 0, errFrameEnd
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return Record{}, 0, frameError(err)
	}
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return Record{}, 0, errFrameEnd
	}
	var rec Record
	if err := json.Unmarshal(body, &rec); err != nil {
		return Record{}, 0, fmt.Errorf("journal frame: %w", err)
	}
	return rec, frameHeader + int64(length), nil
}

func frameError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errFrameEnd
	}
	return err
}

// reset empties the journal. It writes zeros over all that was used, since old frames behind a new
// one would come to life again, and keeps the space.
func (j *journal) reset() error {
	const block = 1 << 20
	zeros := make([]byte, min(j.end, block))
	for off := int64(0); off < j.end; off += block {
		if _, err := j.file.WriteAt(zeros[:min(block, j.end-off)], off); err != nil {
			return fmt.Errorf("empty journal: %w", err)
		}
	}
	if j.end > journalReserve {
		if err := j.file.Truncate(journalReserve); err != nil {
			return fmt.Errorf("empty journal: %w", err)
		}
	}
	if err := j.file.Sync(); err != nil {
		return fmt.Errorf("empty journal: %w", err)
	}
	j.done, j.end = 0, 0
	j.count.Store(0)
	return nil
}

// records is the number of records that wait in the journal.
func (j *journal) records() int {
	if j == nil {
		return 0
	}
	return int(j.count.Load())
}

func (j *journal) close() error {
	if j == nil {
		return nil
	}
	return j.file.Close()
}

// postgresJournal finds a place for the journal of a database that is not on this machine. Its name
// holds which database it is: records must not be replayed into another one.
func postgresJournal(database string) (string, error) {
	home, _ := os.UserHomeDir()
	name := fmt.Sprintf("postgres-%08x.spill", crc32.Checksum([]byte(database), castagnoli))
	for _, dir := range []string{
		firstOf(os.Getenv("STATE_DIRECTORY")), // systemd's
		under(os.Getenv("XDG_STATE_HOME"), "llm-queue-proxy"),
		under(home, ".local/state/llm-queue-proxy"),
		".", // of the image: its volume
	} {
		if dir == "" || os.MkdirAll(dir, 0o700) != nil {
			continue
		}
		path := filepath.Join(dir, name)
		if f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err == nil {
			return path, f.Close()
		}
	}
	return "", fmt.Errorf("%w: found no folder that can be written; name a file on a volume, or %q", ErrJournal, NoJournal)
}

func firstOf(list string) string {
	first, _, _ := strings.Cut(list, ":")
	return first
}

// under is dir/sub, or "" where there is no dir.
func under(dir, sub string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, sub)
}
