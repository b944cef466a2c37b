"""What stands above the instances: file names, categories and definitions of the sample's tasks.

Ids, file names (their typos included) and gold formats are those of MedS-Ins and MedS-Bench; every
text is ours. A definition's first line is the original, the others are rewrites.
"""

# ruff: noqa: E501  (a definition is one line)

from typing import NamedTuple

from data.sample.lexicon import DIAGNOSES, HALLMARKS, TREATMENTS


class Header(NamedTuple):
    """`train` is None where MedS-Ins has no such file; `as_list`: outputs are lists, with ids."""

    train: str | None
    test: str
    category: str
    definitions: tuple[str, ...]
    language: str = "English"
    as_list: bool = False


def _definitions(text: str, **names: str) -> tuple[str, ...]:
    return tuple(line.strip().format(**names) for line in text.strip().splitlines())


HEADERS = {
    "task2": Header(
        "task2_intervention_extraction.json",
        "task2_intervention_extraction.json",
        "Information Extraction",
        _definitions("""
            You will be given a sentence of a study report. List the interventions in the order of the text, separated by commas. If there are none, answer "not found".
            Find the treatments that the study compares and list them with commas. Answer "not found" if no treatment is named.
            Which interventions does this sentence of a trial name? Give them in order, with commas, or "not found".
            List every drug, therapy or control of the study as it stands in the sentence, or write "not found".
        """),
        as_list=True,
    ),
    "task16": Header(
        "task16_healthfact_classification.json",
        "task16_test_healthfact_classification.json",
        "Fact Verification",
        _definitions("""
            Given a paragraph and a claim, answer '0' if the paragraph contradicts the claim, '1' if it both supports and contradicts it, and '2' if it supports the claim.
            Check the claim against the paragraph: 0 means contradicted, 1 means mixed evidence, 2 means supported.
            Does the paragraph support the claim? Write 2 for support, 0 for contradiction, 1 for both.
            Compare the claim with the evidence of the paragraph. Output '0' for against, '1' for mixed, '2' for in favor.
        """),
    ),
    "task29": Header(
        "task29_drug_dose_extraction.json",
        "task29_drug_dose_extraction.json",
        "Information Extraction",
        _definitions("""
            You will be given a sentence and a drug name. Give the dose of that drug. If there are several correct answers, write one of them.
            Find how much of the named drug was taken and write the dose.
            What dose of the drug does the sentence give? Several answers may be right; write one.
            Read the sentence, then the name of a drug after it, and copy the dose of this drug.
        """),
        as_list=True,
    ),
    "task41": Header(
        "task41_mednli_textual_entailment_discriminative.json",
        "task41_test_mednli_textual_entailment_discrimitive.json",
        "Natural Language Inference",
        _definitions("""
            Decide whether the hypothesis in sentence2 follows from the clinical premise in sentence1. Pick one of 3 options: entailment, contradiction, or neutral.
            Sentence1 is a premise and sentence2 a hypothesis. Answer entailment, contradiction or neutral.
            Does sentence1 prove sentence2, rule it out, or leave it open? Answer entailment, contradiction, or neutral.
            Judge the second sentence by the first: entailment, contradiction, or neutral.
        """),
    ),
    "task50": Header(
        "task50_biolord_explanation.json",
        "task50_biolord_explanation.json",
        "Explanation",
        _definitions("""
            Given a concise concept, generate a long detailed definition to explain it.
            Explain the medical concept in one full sentence.
            Write out what the following concept means.
            Turn the short name of a disorder into its definition.
        """),
    ),
    "task57": Header(
        "task57_medqa_question_answering_en.json",
        "task57_medqa_question_answering_en.json",
        "Question Answering",
        _definitions("""
            Given a question and a list of options, select the correct answer from the options directly.
            Read the question and pick the right option.
            Choose the option that answers the question.
            Answer the multiple choice question with one of its options.
        """),
    ),
    "task106": Header(
        "task106_hoc_text_classification.json",
        "task106_hoc_text_classification.json",
        "Text Classification",
        _definitions(
            """
            Classify the hallmarks of cancer in the abstract. Each text has one or more of the ten hallmarks: {labels}.
            Which hallmarks of cancer does the abstract show? Choose one or more of: {labels}.
            Label the abstract with the hallmarks it is about, out of: {labels}.
            """,
            labels=", ".join(HALLMARKS),
        ),
    ),
    "task114": Header(
        "task114_medqsum_text_summurization.json",
        "task114_medqsum_text_summurization.json",
        "Text Summarization",
        _definitions("""
            You will be given a long medical question. Your task is to summarize the consumer health question.
            Shorten the message to the one question it asks.
            What does the writer want to know? Put it as a short question.
            Summarize the letter as a single question.
        """),
    ),
    "task119": Header(
        "task119_mimic4ed_benchmark_critical_triage.json",
        "task119_mimic4ed_benchmark_critical_triage.json",
        "Clinical Outcome Prediction",
        _definitions("""
            I will give an EHR data of a patient. Predict whether the patient should be classified into critical triage queue. Your answer should be True or False.
            Does this patient belong in the critical triage queue? Answer True or False.
            From the record of the visit, say True if the patient is critical and False if not.
            Predict critical triage from the record: True or False.
        """),
    ),
    "task126": Header(
        "task126_bc5chem_named_enetity_recognition.json",
        "task126_test_bc5chem_named_enetity_recognition.json",
        "Named Entity Recognition",
        _definitions("""
            Given a sentence, you need to recognize the name of the chemical. There might be several. If it does not exist, you need to output "There is no related enetity.".
            Find the chemicals and drugs in the sentence. Without any, output "There is no related enetity.".
            Name every drug or chemical of the sentence, or write "There is no related enetity.".
            Which chemicals does the sentence mention? If none, output "There is no related enetity.".
        """),
    ),
    # As in MedS-Ins, no training file: the entity type was never asked for in training.
    "task127": Header(
        None,
        "task127_test_bc5disease_named_enetity_recognition.json",
        "Named Entity Recognition",
        _definitions("""
            Given a sentence, you need to recognize the name of the disease. There might be several. If it does not exist, you need to output "There is no related enetity.".
            Find the diseases in the sentence. Without any, output "There is no related enetity.".
        """),
    ),
    "task129": Header(
        "task129_headqa_question_answering.json",
        "task129_headqa_question_answering.json",
        "Question Answering",
        _definitions("""
            Given a question and a list of options, select the correct answer from the options directly.
            Read the question in Spanish and pick the right option.
            Choose the option that answers the question.
            Answer the multiple choice question with one of its options.
        """),
        language="Spanish",
    ),
    "task130": Header(
        "task130_DDXPlus_text_classification_train.json",
        "task130_DDXPlus_text_classification_test.json",
        "Diagnosis",
        _definitions(
            """
            Imagine you are a doctor. I will give you a dialogue; please make a diagnosis. Choose one of: {labels}.
            Read the dialogue and choose the diagnosis that fits best: {labels}.
            Which disease explains what the patient says? Pick one of: {labels}.
            Diagnose the patient. The possible answers are {labels}.
            """,
            labels=", ".join(c.name for c in DIAGNOSES),
        ),
    ),
    "task131": Header(
        "task131_SEER_text_classification_train.json",
        "task131_SEER_text_classification_test.json",
        "Treatment Planning",
        _definitions(
            """
            I will give you a summary of a patient. Pick a treatment from: {labels}.
            Read the summary and choose the next treatment: {labels}.
            Which plan fits the patient? The options are {labels}.
            """,
            labels=", ".join(TREATMENTS),
        ),
    ),
}
