// Package proc builds and runs the processes that are measured, and reads what
// they use. A process ends with its context: it is asked to by SIGTERM and killed
// when it does not within five seconds.
package proc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const stopDelay = 5 * time.Second

// Build compiles the package, of the current module, to output.
func Build(ctx context.Context, pkg, output string) error {
	out, err := exec.CommandContext(ctx, "go", "build", "-o", output, pkg).CombinedOutput() //nolint:gosec // a package of this module
	if err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// Command says what to run.
type Command struct {
	// Name stands in errors.
	Name string
	Path string
	Args []string
	// Env is added to the environment.
	Env []string
	Dir string
}

// Process is a running process. Stop it.
type Process struct {
	name   string
	cmd    *exec.Cmd
	cancel context.CancelFunc
	output output
	exited chan struct{}
}

// Start runs c until Stop is called or ctx ends.
func Start(ctx context.Context, c Command) (*Process, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &Process{name: c.Name, cancel: cancel, exited: make(chan struct{})}
	p.cmd = exec.CommandContext(ctx, c.Path, c.Args...) //nolint:gosec // what is to be measured
	p.cmd.Env = append(os.Environ(), c.Env...)
	p.cmd.Dir = c.Dir
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopDelay
	err := p.cmd.Start()
	if err != nil {
		cancel()
		return nil, fmt.Errorf("starting %s: %w", c.Name, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended does not matter: Alive tells when
		close(p.exited)
	}()
	return p, nil
}

// Stop ends the process and waits for its end.
func (p *Process) Stop() {
	p.cancel()
	<-p.exited
}

// Alive returns an error with the process's last words once it has ended.
func (p *Process) Alive() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended\n%s", p.name, p.output.String())
	default:
		return nil
	}
}

// Wait polls ready until it returns nil, for at most limit.
func (p *Process) Wait(ctx context.Context, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if ended := p.Alive(); ended != nil {
			return ended
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w\n%s", p.name, limit, err, p.output.String())
		case <-ticker.C:
		}
	}
}

// CPU is the user and system time that the process has used since its start.
func (p *Process) CPU() (time.Duration, error) { return cpuOf(p.cmd.Process.Pid) }

// RSS is its resident memory in bytes.
func (p *Process) RSS() (int64, error) { return rssOf(p.cmd.Process.Pid) }

// output keeps the last 8 KiB of what is written to it.
type output struct {
	mu   sync.Mutex
	data []byte
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.data = append(o.data, b...)
	if over := len(o.data) - 8<<10; over > 0 {
		o.data = append(o.data[:0], o.data[over:]...)
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(bytes.Clone(o.data))
}
