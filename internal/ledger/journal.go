package ledger

import (
	"bytes"
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
// (little endian), ended by bytes that are no frame, with none soon behind them. The file is
// filled with zeros beforehand, so that it works on a disk that has become full. Only the committer writes and reads it. A nil journal is empty.
type journal struct {
	file  *os.File
	sync  bool  // fsync each append
	done  int64 // where the frames begin that are not in the store yet
	end   int64 // where the next frame goes
	torn  bool  // some of it was no frame, and frames were behind it
	count atomic.Int64
}

const (
	journalReserve = 1 << 20   // bytes written beforehand: some 2,500 records
	journalLeast   = 16 << 10  // bytes: less is not worth taking
	journalMax     = 256 << 20 // bytes: beyond that records wait in memory
	frameHeader    = 8
	frameMax       = 32 << 10 // bytes of one record; prepare keeps them far below
	gapMax         = 64 << 10 // bytes of damage behind which frames are looked for
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
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	for {
		chunk, next, err := j.read(j.end, info.Size(), maxBatch)
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
	if err == nil {
		err = j.keep(j.end + int64(len(buf)))
	}
	if err != nil {
		return fmt.Errorf("append to journal: %w", err) // the next append overwrites what was written
	}
	j.end += int64(len(buf))
	j.count.Add(int64(len(work)))
	return nil
}

// keep makes the journal anew if its file was taken away from under the program, with
// what is still to be stored of the first end bytes.
func (j *journal) keep(end int64) error {
	if gone, err := removed(j.file); err != nil || !gone {
		return err
	}
	name := j.file.Name()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // another one is another process's
	if err != nil {
		return err
	}
	free, err := tryLock(f)
	if err == nil && !free {
		err = errors.New("another process has taken its place")
	}
	if err == nil {
		_, err = io.Copy(f, io.NewSectionReader(j.file, j.done, end-j.done))
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	old := j.file
	j.file, j.end, j.done = f, j.end-j.done, 0
	return errors.Join(j.reserve(), old.Close())
}

func appendFrame(buf, body []byte) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(body)))
	buf = binary.LittleEndian.AppendUint32(buf, crc32.Checksum(body, castagnoli))
	return append(buf, body...)
}

// read returns up to n records between off and end, and where the next one begins. A damaged frame
// does not hide those behind it.
func (j *journal) read(off, end int64, n int) (chunk []Record, next int64, err error) {
	for len(chunk) < n {
		rec, size, err := readFrame(io.NewSectionReader(j.file, off, end-off))
		if errors.Is(err, errFrameEnd) {
			gap, err := j.gap(off, end)
			if err != nil {
				return nil, off, err
			}
			if gap == 0 {
				break
			}
			j.torn = true
			off += gap
			continue
		}
		if err != nil {
			return nil, off, err
		}
		off += size
		chunk = append(chunk, rec)
	}
	return chunk, off, nil
}

// gap is how many bytes lie between off, where no frame begins, and the next whole frame; 0 if none
// follows within gapMax, as where the writing ended or was torn.
func (j *journal) gap(off, end int64) (int64, error) {
	ahead := make([]byte, max(0, min(end-off, gapMax+frameHeader+frameMax)))
	if _, err := j.file.ReadAt(ahead, off); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	for at := 1; at < min(len(ahead)-frameHeader, gapMax); at++ {
		if ahead[at] == 0 && ahead[at+1] == 0 || ahead[at+2] != 0 || ahead[at+3] != 0 {
			continue // a length that no frame has
		}
		if _, _, err := readFrame(bytes.NewReader(ahead[at:])); err == nil {
			return int64(at), nil
		}
	}
	return 0, nil
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
	j.done, j.end, j.torn = 0, 0, false
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
