"""MedGenJobs clicked through: the queue across modules, its log, cancel, try again, show the result."""

from __future__ import annotations

import pytest


@pytest.fixture
def panels(driver):
    driver.head()
    segment = driver.open("MedGenSegment").panel
    segment.chooser.choose("gui_threshold")
    return segment, driver.open("MedGenJobs").jobs


def test_jobs_are_listed_with_state_log_and_result(driver, panels):
    import slicer

    segment, jobs_panel = panels
    segment.state.set_value(segment.method, "note", "hello log")
    ticket = driver.run(segment)
    assert jobs_panel.table.item(0, 0).text() == "Two thresholds: Head MR"
    assert jobs_panel.table.item(0, 1).text().startswith("Finished")
    assert "hello log" in jobs_panel.log.text.toPlainText()
    driver.click(jobs_panel.show_result)
    assert slicer.app.current_module == "MedGenSegment"
    assert ticket.results()[0].GetDisplayVisibility()


def test_two_jobs_queue_and_one_is_cancelled(driver, panels):
    segment, jobs_panel = panels
    segment.state.set_value(segment.method, "seconds", 30.0)
    first = segment.apply()
    second = segment.apply()
    driver.wait(lambda: first.state == "running" and second.state == "waiting")
    jobs_panel.table.selectRow(0)
    assert jobs_panel.chosen() is second
    driver.click(jobs_panel.cancel)
    assert second.state == "cancelled" and first.state == "running"
    jobs_panel.table.selectRow(1)
    driver.click(jobs_panel.cancel)
    driver.wait(lambda: first.ended)
    driver.click(jobs_panel.clear)
    assert jobs_panel.table.rowCount() == 0


def test_a_failed_job_is_tried_again(driver, panels):
    segment, jobs_panel = panels
    segment.state.set_value(segment.method, "fault", "die")
    ticket = driver.run(segment)
    assert ticket.state == "failed"
    driver.process()
    assert jobs_panel.message.label.text() == ticket.error
    driver.click(jobs_panel.retry)
    driver.wait(lambda: not jobs_panel.controller.unfinished())
    assert jobs_panel.table.rowCount() == 2


def test_log_can_be_copied_and_kept(driver, panels, monkeypatch):
    import qt

    from MedGenSlicerLib import log_view

    segment, jobs_panel = panels
    segment.state.set_value(segment.method, "note", "copy me")
    ticket = driver.run(segment)
    jobs_panel.log._copy()
    assert "copy me" in qt.QApplication.clipboard().text()
    assert "copy me" in log_view.save_log(ticket).read_text()
