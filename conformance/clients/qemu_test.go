package clients

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// runARM has the kernel run programs for 32-bit ARM with qemu, in containers too (flag F), until the end of the test. All of
// the computer does that meanwhile, as there is one table for a user namespace. Since Linux 6.7 the entry goes with the machine
// that mounted the table; before, a test that is killed leaves it there.
func runARM(t *testing.T, m *machine) {
	t.Helper()
	qemu, err := exec.LookPath("qemu-arm-static")
	if err != nil {
		unavailable(t, "this test needs qemu-arm-static")
	}
	const (
		table = "/proc/sys/fs/binfmt_misc"
		// The header of an executable: 32 bits, little-endian, for ARM; ET_EXEC or ET_DYN, any OS ABI.
		magic = `\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00`
		mask  = `\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff`
	)
	entry := fmt.Sprintf("berth-%d-%s", os.Getpid(), t.Name())
	m.do("mount -t binfmt_misc binfmt_misc " + table)
	m.do(fmt.Sprintf("printf '%%s' ':%s:M::%s:%s:%s:F' >%s/register", entry, magic, mask, qemu, table))
	t.Cleanup(func() { m.do("echo -1 >" + table + "/" + entry) })
}
