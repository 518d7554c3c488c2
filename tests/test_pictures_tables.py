"The pictures of page tables and address spaces: what they say about an address is what the processor and the Host would do with it."
from itertools import product

import pytest

from lguest_lit.host.host import Host
from lguest_lit.i386.paging import PageFault, walk
from lguest_lit.host.lg import GuestDead
from lguest_lit.host.page_tables import demand_page, spgd_addr, spte_addr
from lguest_lit.pictures.address_space import address_space, guest_world, host_world
from lguest_lit.pictures.page_tables import page_tables, table_film
from lguest_lit.pictures.steps import steps, table
from lguest_lit.watch.rewind import Layers, keep_guest, keep_host, put_guest, put_host
from lguest_lit.launcher.workbench import OneTurn, Workbench

ENTRIES = {0x5000: 0x200007, 0x6000: 0x201005, 0x7000: 0x202003, 0x8000: 0x203067, 0x9000: 0x204107, 0xA000: 0x205087, 0xB000: 0x20600F,
           0xC000: 0x999007, 0xD000: 0x12345040, 0xE000: 0x207027, 0xFFC01000: 0x208007}
ODD_TOPS = {0x01000000: 0x999007, 0x01400000: 0x301005, 0x01800000: 0x301003,                # far away, read-only, the kernel's
            **{0x02000000 + (bit << 22): 0x301007 | 1 << bit for bit in (3, 4, 7, 8, 9, 10, 11)}}    # and flags that are not allowed
PLACES = [*ENTRIES, *(top + 0x5000 for top in ODD_TOPS), 0xF000, 0x00800000, 0x40000000, 0xC0100000, 0xC0200000, 0xC03FF000, 0xC0400000, 0xFFC00000, 0xFFC02000]
ASK = '''(places) => {
  const root = document.querySelector('.lguest-picture').shadowRoot, out = [];
  const answer = () => [...root.querySelectorAll('.verdict')].map((p) => [p.dataset.verdict, p.textContent]);
  for (const [vaddr, access] of places) {
    const box = root.querySelector('input.mono'), kind = root.querySelector('select');
    box.value = vaddr.toString(16); box.dispatchEvent(new Event('change'));
    kind.value = access; kind.dispatchEvent(new Event('change'));
    out.push(answer());
  }
  return out;
}'''


@pytest.fixture(scope='module')
def lived():
    "A Guest with every kind of entry, some of them used, and the film of its life so far."
    g = Workbench('hcall LHCALL_NEW_PGTABLE, $0x300000\n' + ''.join(f'mov {at:#x}, %eax\n' for at in (0x5000, 0x6000, 0x7000, 0x9000, 0x01405000, 0x01805000))
                  + 'movl $1, 0xC0200000\nmovl $1, 0xE000\nhcall LHCALL_FLUSH_ASYNC\nready: nop')
    g.address_space(0x300000, ENTRIES)
    for top, entry in ODD_TOPS.items(): g.put(0x300000 + 4*(top >> 22), entry.to_bytes(4, 'little'))
    film = table_film(g.lg, g.turn, limit=12)
    assert g.dead is None or 'Power down' in g.dead
    return g, film


def entered(g, vaddr):
    "What the shadow has for an address, in the picture's words."
    u32 = g.lg.mem.u32
    spte = u32[spte_addr(u32[spgd_addr(g.lg, g.lg.pgdidx, vaddr)], vaddr)]
    letters = ''.join(c if spte & bit else '·' for c, bit in zip('pwuad', (1, 2, 4, 0x20, 0x40))) + 'c' * (spte >> 4 & 1) + 'g' * (spte >> 8 & 1)
    return f'page {(spte >> 12) - g.lg.mm.base_pfn:#x} with {letters}'


def by_the_host(g, vaddr, access):
    "What demand_page does with it. The Guest is put back as it was."
    layers, guest, host = Layers(g.host.mem), keep_guest(g), keep_host(g.host)
    before = layers.keep()
    g.lg.dead = None
    try: return ('mended', entered(g, vaddr)) if demand_page(g.lg, vaddr, access) else ('passed on', '')
    except GuestDead: return 'killed', g.lg.dead
    finally:
        layers.put(before)
        put_guest(g, guest)
        put_host(g.host, host)


def by_the_cpu(g, vaddr, access):
    "What the processor does with the shadow: (physical address, error code)."
    try: return walk(g.lg.mem.u32, g.lg.pgdirs[g.lg.pgdidx].pgdir << 12, vaddr, write=bool(access & 2), user=bool(access & 4), pse=False, mark=False), None
    except PageFault as fault: return None, fault.errcode


def test_an_address_is_walked_as_the_processor_and_the_host_would(show, lived):
    g, film = lived
    page = show(page_tables(film, 0x5000, at=len(film['frames']) - 1))
    questions = list(product(PLACES, (0, 2, 4, 6)))
    seen = {'mended': 0, 'passed on': 0, 'killed': 0}
    for (vaddr, access), ((verdict, words), (passes, told)) in zip(questions, page.evaluate(ASK, questions)):
        pa, error = by_the_cpu(g, vaddr, access)
        assert (passes == 'passes') == (pa is not None), (hex(vaddr), access)
        assert (f'{pa:#010x}' if pa is not None else f'error code {error}:') in told
        done, last_words = by_the_host(g, vaddr, access)
        assert done == verdict and words.removesuffix('”').endswith(last_words), (hex(vaddr), access, words)
        seen[done] += 1
    assert all(seen.values())


def test_the_tables_are_those_in_memory(show, lived):
    "Each entry that the picture has, at the last moment, against memory; and none is left out."
    g, film = lived
    last, u32 = film['frames'][-1], g.lg.mem.u32
    def entries(runs): return {first + i: entry + (i << 12) for first, n, entry in runs for i in range(n)}
    for at, runs in last['guest'].items(): assert entries(runs) == {i: e for i in range(1024) if (e := g.word(int(at) + 4*i))}
    for pfn, runs in last['shadow'].items(): assert entries(runs) == {i: e for i, e in enumerate(u32[int(pfn) << 10:int(pfn) + 1 << 10].tolist()) if e}
    page = show(page_tables(film, 0x5000, at=len(film['frames']) - 1))
    table = page.get_by_role('region', name='PTE page').locator('tbody tr')
    assert table.count() == len(ENTRIES) - 1                # all but the Switcher's, which lies elsewhere
    assert table.first.inner_text().split('\t')[1:] == [f'{g.word(0x301014) >> 12:#x} pwua·', '≠ without w', f'{g.lg.mm.base_pfn + 0x200:#x} p·ua·']


def test_the_stepper_marks_what_a_turn_has_changed(show, lived):
    g, film = lived
    page = show(page_tables(film, 0x5000))
    new = lambda: page.locator('[data-part=tables] .new').all_inner_texts()
    assert new() == [] and page.locator('output').inner_text() == '0 of 12: Before.'
    at = next(n for n, text in enumerate(film['says']) if 'reads 0x5000' in text)
    for _ in range(at): page.get_by_label('step forward').click()
    assert page.locator('output').inner_text() == f"{at} of 12: {film['says'][at]}"
    frames = film['frames']
    assert new() == [f"{next(e for i, _, e in frames[at]['shadow'][str(frames[at]['slots'][frames[at]['current']][1])] if i == 0) >> 12:#x} pwu··", '0x200 pwua·', f'{film["base"] + 0x200:#x} p·ua·']
    page.keyboard.press('ArrowLeft')
    assert page.locator('output').inner_text() == f"{at - 1} of 12: {film['says'][at - 1]}"


def test_a_row_a_place_and_a_slot_can_be_pressed(show, lived):
    g, film = lived
    page = show(page_tables(film, 0x5000, places={g.at('main'): 'the code'}, at=12))
    page.get_by_role('button', name='the code').click()
    assert page.get_by_label('address, hexadecimal').input_value() == f"{g.at('main'):#010x}"
    page.get_by_role('region', name='top level').get_by_role('button').first.click()
    assert page.get_by_label('address, hexadecimal').input_value() == '0x00000000'
    box = page.get_by_label('address, hexadecimal')
    box.fill('C0100'), page.evaluate("document.querySelector('.lguest-picture').shadowRoot.querySelector('[aria-label=\"step back\"]').click()")
    assert box.input_value() == 'C0100'                    # a step does not take away what somebody is typing
    box.press('Enter')
    assert box.input_value() == '0x000c0100' and '= 192' in page.locator('.piece').nth(1).inner_text()
    box.fill('no number'), box.press('Tab')
    assert box.input_value() == '0x000c0100'
    page.locator('.slot').nth(0).click()
    assert "Slot 0: the Guest's 0x3ff000" in page.locator('[data-part=tables] h4').first.inner_text()
    page.get_by_role('button', name='follow the one in use').click()
    assert f"Slot {g.lg.pgdidx}: the Guest's 0x300000" in page.locator('[data-part=tables] h4').first.inner_text()


def test_a_part_that_is_not_there_is_named(lived):
    with pytest.raises(ValueError, match='shape'): page_tables(lived[1], 0, 'shape')


def test_references_are_counted_and_their_holders_named(show):
    g = Workbench('hcall LHCALL_NEW_PGTABLE, $0x300000\nmov 0x5000, %al\nmov 0x6000, %al\nmov 0xC0200000, %al\nhcall LHCALL_FLUSH_TLB, $0')
    g.address_space(0x300000, {0x5000: 0x200007, 0x6000: 0x200007})
    counts, turn = [g.host.mem.refs[g.lg.mm.base_pfn + 0x200]], g.turn
    def counting():
        turn()
        counts.append(g.host.mem.refs[g.lg.mm.base_pfn + 0x200])
    film = table_film(g.lg, counting)
    assert max(counts) == 4 and counts[-1] == 2
    page = show(page_tables(film, 0x5000, 'holders', watch=(0x200,)))
    for at, n in enumerate(counts):
        assert page.locator('[data-refs="512"]').inner_text() == (str(n) if n == counts[max(at - 1, 0)] else f'{counts[at - 1]} → {n}')
        assert page.locator('.held').first.locator('span.chip').count() == n
        page.get_by_label('step forward').click(force=at + 1 < len(counts)) if at + 1 < len(counts) else None


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_the_tables_fit_a_phone(show, lived, scheme):
    page = show(page_tables(lived[1], 0x5000, 'slots', 'split', 'walk', 'tables', 'places', 'holders', places={0x5000: 'a page'}, at=12), width=360, scheme=scheme)
    assert page.evaluate('document.documentElement.scrollWidth') <= 360


# --- the map ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def two():
    "A Host with two CPUs, a Guest on each, and the map of the three."
    host, guests = Host(memory=24 << 20, nr_cpus=2, clock=OneTurn()), []
    for cpu in 0, 1:
        host.use_cpu(cpu)
        guests.append(Workbench('hcall LHCALL_FLUSH_ASYNC\nhcall LHCALL_FLUSH_ASYNC', host=host))
        guests[-1].turn()
    worlds = host_world(host, host.pgdir, 'Host'), *(host_world(host, g.lg.pgdirs[0].pgdir, f'CPU {n}', g.lg) for n, g in enumerate(guests))
    return host, guests, worlds


def test_the_map_has_what_the_processor_finds(two):
    host, guests, worlds = two
    for world, pgdir in zip(worlds, (host.pgdir, *(g.lg.pgdirs[0].pgdir for g in guests))):
        has = {first + i: (frame + i, rights) for first, n, frame, rights, *_ in world['regions'] for i in range(n)}
        for page in {*has, *(p + 1 for p in has), *range(0, 1 << 20, 4099)} - {1 << 20}:
            found = []
            for write, user in product((False, True), repeat=2):
                try: found.append(walk(host.mem.u32, pgdir << 12, page << 12, write=write, user=user, mark=False) >> 12)
                except PageFault: found.append(None)
            frame, rights = has.get(page, (None, 0))
            assert found == [frame, frame if rights & 4 else None, frame if rights & 2 else None, frame if rights & 6 == 6 else None], hex(page << 12)


def boxes(page, column): return {b.get_attribute('data-page'): b.bounding_box() for b in page.locator('.strip:not(.axis)').nth(column).locator('.region').all()}


def test_the_map_is_to_scale_and_zooms(show, two):
    host, guests, worlds = two
    page = show(address_space(*worlds))
    high = page.locator('.strip:not(.axis)').first.evaluate('e => e.clientHeight')
    low = min(int(p) for p in boxes(page, 0))
    assert low == 0xC0000 and abs(boxes(page, 0)[str(low)]['height'] - max(3, high * (24 << 20) / (1 << 32))) < 1
    page.get_by_role('button', name="the Switcher's pages").click()
    assert [sorted(int(p) & 0xFF for p in boxes(page, k)) for k in range(3)] == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 3, 4]]
    assert all(abs(b['height'] - high / 8) < 1 for k in range(3) for b in boxes(page, k).values())
    page.get_by_label('zoom out').click()
    assert page.locator('output').inner_text() == 'From 0xffbf4000 to 0xffc13fff: 128 kB.'         # the middle has stayed in the middle
    page.keyboard.press('+')
    assert page.locator('output').inner_text().endswith(': 32 kB.')
    for _ in range(12): page.keyboard.press('-')
    assert page.locator('output').inner_text() == 'From 0x00000000 to 0xffffffff: 4 GB.'


def test_a_region_tells_where_the_same_memory_is(show, two):
    host, guests, worlds = two
    page = show(address_space(*worlds, window=[0xFFC00000, 8 << 12]))
    page.locator('.strip:not(.axis)').nth(1).locator('[data-page="1047552"]').click()
    assert f'frame {host.switcher_pages[0]:#x}; can be read, not written, not by ring 3.' in page.locator('.details').inner_text()
    assert page.locator('.region.same').count() == 2
    page.locator('.details .link').filter(has_text='0xffc00000').first.click()
    assert page.locator('.details h4').inner_text() == "Host: the Switcher's code"
    page.locator('.strip:not(.axis)').nth(2).locator('[data-page="1047555"]').click()      # the other CPU's registers: only all of memory has them, too
    assert page.locator('.details h4').inner_text() == 'CPU 1: registers of Guest 1' and page.locator('.region.same').count() == 0
    assert page.locator('.details .link').all_inner_texts() == [f'Host, {0xC0000000 + (guests[1].lg.regs_page << 12):#x}']


def test_the_guests_own_tables_name_no_frames(show, two):
    page = show(address_space(guest_world(two[1][0].lg), *two[2], window=[3 << 30, 16 << 20]), width=360)
    page.locator('.strip:not(.axis)').first.locator('.region').click()
    assert 'Guest page 0x0 and the 1023 behind it' in page.locator('.details').inner_text()
    assert page.evaluate('document.documentElement.scrollWidth') <= 360


# --- steps ------------------------------------------------------------------------------------------------------------

def test_steps_mark_what_is_new_changed_and_gone(show):
    head = 'name', 'value'
    story = [('one', table('t', head, {'a': 1, 'b': 2})), ('two', table('t', head, {'a': 1, 'b': 3, 'c': 4})), ('three', table('t', head, {'a': 1, 'c': 4}))]
    page = show(steps({'first': story, 'second': [('alone', table('t', head, {'x': 9}))]}, 'A story'), width=360)
    rows = lambda: [row.inner_text().split('\t') for row in page.locator('tbody tr').all()]
    new = lambda: page.locator('td.new').all_inner_texts()
    assert (rows(), new()) == ([['a', '1'], ['b', '2']], [])
    page.get_by_label('step forward').click()
    assert (rows(), new()) == ([['a', '1'], ['b', '3'], ['+ c', '4']], ['3', '+ c', '4'])
    page.keyboard.press('ArrowRight')
    assert (rows(), new()) == ([['a', '1'], ['c', '4'], ['− b', '3']], []) and page.locator('s').count() == 2
    page.get_by_role('button', name='second').click()
    assert rows() == [['x', '9']] and page.locator('output').inner_text() == '1 of 1: alone'
    assert page.evaluate('document.documentElement.scrollWidth') <= 360


def test_a_scene_without_steps_is_refused():
    with pytest.raises(ValueError, match='at least one step'): steps({'nothing': []}, 'Empty')
