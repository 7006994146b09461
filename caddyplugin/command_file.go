package caddyplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/caddy-capif/aef/internal/adminapi"
	"github.com/caddy-capif/aef/internal/revocation"
)

// fileFlags are the flags of revoke --from.
type fileFlags struct {
	path       string
	batch      string
	yes        bool
	concurrent int
}

const (
	defaultConcurrent = 8
	maxConcurrent     = 64
	maxFile           = 256 << 20
	maxBatchName      = 100
	// shownProblems bounds what is written about bad rows.
	shownProblems = 10
)

func (f *fileFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.path, "from", "", "Revoke what this CSV file lists")
	flags.StringVar(&f.batch, "batch", "", "Name of the file's rows (with --from; default: a digest of the file)")
	flags.BoolVar(&f.yes, "yes", false, "Do not ask (with --from)")
	flags.IntVar(&f.concurrent, "concurrency", defaultConcurrent, "How many requests at a time (with --from)")
}

// needsFrom refuses flags that say something about a file where none is given, so
// that nobody takes them for heard. --yes is none of them: scripts give it always.
func needsFrom(cmd *cobra.Command) error {
	for _, name := range []string{"batch", "concurrency"} {
		if cmd.Flags().Changed(name) {
			return exitWith(exitInvalid, "nothing was changed: --%s is about the rows of a file; give it with --from, or leave it out", name)
		}
	}
	return nil
}

// fileResult is what came of a file, also as JSON.
type fileResult struct {
	Batch string `json:"batch"`
	Rows  int    `json:"rows"`
	// Triggered rows are new, Existing ones were triggered before, Failed
	// ones were refused.
	Triggered int `json:"triggered"`
	Existing  int `json:"existing"`
	Failed    int `json:"failed"`
	// Pending is how many revocations the core has not decided, of those that
	// were waited for.
	Pending int `json:"pending"`

	mu   sync.Mutex
	made []revocation.Revocation
}

// revokeFile checks every row before the first is sent, asks, and sends. Each row
// is a request with a name of its own, so that a repeat triggers nothing twice.
func (c *console) revokeFile(ctx context.Context, f *revokeFlags) error {
	if f.file.concurrent < 1 || f.file.concurrent > maxConcurrent {
		return exitWith(exitInvalid, "--concurrency %d: give 1 to %d", f.file.concurrent, maxConcurrent)
	}
	data, err := reading(ctx, func() ([]byte, error) { return readFile(f.file.path) })
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return exitWith(exitInvalid, "--from %s: %w", f.file.path, err)
	}
	status, err := c.client.Status(ctx)
	if err != nil {
		return err
	}
	b, problems := readBatch(data, &f.request, status.AEFID, status.AEFIDs)
	if len(problems) > 0 {
		for _, p := range problems[:min(len(problems), shownProblems)] {
			c.tellf("%s:%s\n", f.file.path, printable(p))
		}
		return exitWith(exitInvalid, "%d problems in %s; nothing was sent", len(problems), f.file.path)
	}
	if len(f.file.batch) > maxBatchName {
		return exitWith(exitInvalid, "--batch is longer than %d bytes", maxBatchName)
	}
	if f.file.batch != "" {
		b.name = f.file.batch
	}
	c.preview(b, status)
	err = c.confirm(ctx, f.file.yes, "Revoke %d authorizations of %d API invokers?", len(b.rows), b.invokers())
	if err != nil {
		return err
	}
	return c.sendBatch(ctx, b, f)
}

// readFile reads a file of at most maxFile bytes. It may be a pipe, whose size says
// nothing.
func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it is larger than %d bytes: split it", maxFile)
	}
	return data, err
}

func (c *console) sendBatch(ctx context.Context, b *batch, f *revokeFlags) error {
	result := &fileResult{Batch: b.name, Rows: len(b.rows)}
	err := c.send(ctx, b, f.file.concurrent, result)
	done := result.Triggered + result.Existing + result.Failed
	if err != nil {
		c.tellf("Stopped after %d of %d rows. Run the same command again: it goes on where it was, and sends nothing twice.\n", done, result.Rows)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	if f.wait > 0 {
		err = c.awaitDecided(ctx, result.made, f.wait)
		if err != nil {
			return err
		}
	}
	for i := range result.made {
		if result.made[i].State == revocation.StatePending {
			result.Pending++
		}
	}
	if c.json {
		err = c.writeJSON(result)
		if err != nil {
			return err
		}
	} else {
		c.sayf("%d rows: %d triggered, %d there already, %d refused; %d wait for the core. Batch %s.\n",
			result.Rows, result.Triggered, result.Existing, result.Failed, result.Pending, result.Batch)
	}
	if result.Failed > 0 {
		return exitWith(exitSomeFailed, "%d rows were refused; see above", result.Failed)
	}
	if f.wait > 0 {
		return outcome(result.made, true)
	}
	return nil
}

// send sends every row, so many at a time. It goes on after a row that was refused,
// and stops where no row can succeed.
func (c *console) send(ctx context.Context, b *batch, concurrent int, result *fileResult) error {
	progress := c.progress(len(b.rows))
	defer progress.end()
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(concurrent)
	for i := range b.rows {
		if sending.Err() != nil {
			break
		}
		group.Go(func() error {
			row := &b.rows[i]
			row.request.RequestID = fmt.Sprintf("%s/%d", b.name, row.line)
			row.request.NoWait = true
			answer, _, err := c.client.Revoke(sending, &row.request)
			result.mu.Lock()
			defer result.mu.Unlock()
			var call *adminapi.CallError
			switch {
			case errors.As(err, &call) && call.Kind == adminapi.KindInvalid:
				result.Failed++
				progress.note("line %d: %s", row.line, refusal(call.Message))
			case err != nil:
				return err
			case answer.Existing:
				result.Existing++
			default:
				result.Triggered++
			}
			if err == nil {
				result.made = append(result.made, answer.Revocations...)
			}
			progress.step()
			return nil
		})
	}
	err := group.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// refusal is why a row was refused, in the words of a file.
func refusal(message string) string {
	if strings.Contains(message, revocation.ErrRequestReused.Error()) {
		message += ": this row was sent before, with other flags; give the same flags, or another --batch to send it anew"
	}
	return printable(message)
}

// preview shows what a file would hit.
func (c *console) preview(b *batch, status *adminapi.Status) {
	shown := *c
	shown.out = c.err // standard output is for the result
	names := map[[2]string]string{}
	for _, r := range status.Routes {
		for _, api := range r.APIIDs {
			names[[2]string{r.AEFID, api}] = r.APIName + ", mode " + r.Mode
		}
	}
	var rows [][]string
	for _, t := range b.hits() {
		name, known := names[[2]string{t.aef, t.api}]
		switch {
		case t.api == "":
			name = "every route of the AEF"
		case !known:
			name = "NO ROUTE here; the core is asked all the same"
		}
		rows = append(rows, []string{t.aef, apiOr(t.api), name, fmt.Sprint(t.rows), fmt.Sprint(t.invokers)})
	}
	shown.table([]string{"AEF", "API", "ROUTE", "ROWS", "API INVOKERS"}, rows)
	if b.repeated > 0 {
		c.tellf("%d rows repeat an earlier one and are left out.\n", b.repeated)
	}
	c.doubtCauses(b.causes()...)
	c.tellf("Batch %s: rows that were sent under this name are not sent again.\n", b.name)
}

// progress is a bar on a terminal, and a line now and then elsewhere.
type progress struct {
	c     *console
	bar   *progressbar.ProgressBar // nil where there is no terminal
	done  int
	total int
}

const plainSteps = 1000

func (c *console) progress(total int) *progress {
	p := &progress{c: c, total: total}
	if file, ok := c.err.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.bar = progressbar.NewOptions(total, progressbar.OptionSetWriter(file), progressbar.OptionShowCount(),
			progressbar.OptionSetDescription("revoking"), progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetPredictTime(true))
	}
	return p
}

func (p *progress) step() {
	p.done++
	switch {
	case p.bar != nil:
		_ = p.bar.Add(1) // a terminal that is gone
	case p.done%plainSteps == 0:
		p.c.tellf("%d of %d rows\n", p.done, p.total)
	}
}

func (p *progress) note(format string, args ...any) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	p.c.tellf(format+"\n", args...)
}

func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Exit()
		p.c.tellf("\n")
	}
}
